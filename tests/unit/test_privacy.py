"""What may be said: log fields, secrets, exceptions, library logs, reprs of values that hold bodies."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.canary import NOTE
from tests.support.settlements import claim, synced
from worker import privacy
from worker.claims import Answer
from worker.config import validated
from worker.contract import AppointmentResource, AppointmentUpdate
from worker.merge import Breach, Change
from worker.outcome import Exchange

TOKEN = "caspen-live-5b1d77"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test leaves a secret behind."""
    monkeypatch.setattr(privacy, "_secrets", set())


def said(**event: Any) -> dict[str, Any]:
    """What is left of an event."""
    return dict(privacy.screened(None, "info", event))


# -- log events ------------------------------------------------------------------------------------------------------


def test_what_an_event_may_say() -> None:
    """Declared fields pass as they are."""
    event = {
        "event": "requests_failed",
        "account": "default",
        "appointment_id": "app_1",
        "error": "503 temporarily unavailable",
        "http_status": None,
        "once": True,
        "wait_s": 1.5,
        "fields": ["note", "room_id"],
        "reasons": {"503 temporarily unavailable": 3, None: 1},
    }
    assert said(**event) == event


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("note", NOTE),
        ("body", {"note": NOTE}),
        ("exc_info", ValueError(NOTE)),
        ("error", ValueError(NOTE)),
        ("error", {"note": NOTE}),
        ("fields", {"note": NOTE}),
        ("fields", [NOTE]),
        ("reasons", {"503": NOTE}),
        ("outcome", NOTE),
        ("attempts", NOTE),
    ],
)
def test_what_it_may_not(field: str, value: Any) -> None:
    """A field that is not declared, or a value that it may not have, is left out, and only its name is said."""
    assert said(event="request", **{field: value}) == {"event": "request", "withheld": [field]}


def test_an_event_is_a_name() -> None:
    """A sentence with something formatted into it is none."""
    assert said(event=f"sent {NOTE}") == {"withheld": ["event"]}


# -- secrets ---------------------------------------------------------------------------------------------------------


def test_a_secret_is_said_nowhere() -> None:
    """Neither in a field, nor in a list or a count, nor in a line for a person."""
    privacy.withhold(TOKEN)
    event = said(event="request", error=f"no {TOKEN}", at=[TOKEN], reasons={TOKEN: 1})
    assert TOKEN not in str(event)
    assert event["error"] == "no [withheld]"


def test_passwords_of_urls() -> None:
    """As written, as meant, and as a parameter; what else stands in the URL may be said."""
    privacy.withhold_passwords("postgresql://user:p%40ssword1@db.example/clinic?sslpassword=0ther-secret")
    assert (
        privacy.redacted("user p%40ssword1 p@ssword1 0ther-secret db.example")
        == "user [withheld] [withheld] [withheld] db.example"
    )


def test_a_short_word_is_not_blacked_out() -> None:
    """A password such as "clinic" would make messages unreadable, and give itself away."""
    privacy.withhold("clinic")
    privacy.withhold("")
    assert privacy.redacted("database clinic is away") == "database clinic is away"


def test_settings_withhold_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, and the passwords of database, libpq and proxy, are known as soon as they are read."""
    monkeypatch.setenv("PGPASSWORD", "libpq-secret")
    validated(
        {
            "database": {"dsn": "postgresql://u:db-secret-1@h/d"},
            "api": {"proxy": "http://u:proxy-secret@h:1"},
            "accounts": {"default": {"token": TOKEN}},
        }
    )
    assert privacy.redacted(f"libpq-secret db-secret-1 proxy-secret {TOKEN}") == " ".join(["[withheld]"] * 4)


# -- exceptions ------------------------------------------------------------------------------------------------------


def inner() -> None:
    """Raises what quotes a body."""
    raise KeyError(NOTE)


def outer() -> None:
    """Raises it again as something else."""
    try:
        inner()
    except KeyError as error:
        raise ValueError(NOTE) from error


def test_places() -> None:
    """Types and places of the whole chain, groups included; no message."""
    try:
        try:
            outer()
        except ValueError as error:
            raise ExceptionGroup(NOTE, [error]) from None
    except ExceptionGroup as group:
        lines = privacy.places(group)
    assert [line.split(":")[0] for line in lines] == ["ExceptionGroup", "ValueError", "KeyError"]
    assert "unit/test_privacy.py:" in lines[2]
    assert "inner" in lines[2]
    assert NOTE not in str(lines)


def test_places_are_few() -> None:
    """Whatever a recursion or a group of tasks came to."""

    def deeper() -> None:
        deeper()

    with pytest.raises(RecursionError) as caught:
        deeper()
    (line,) = privacy.places(caught.value)
    assert line.count("deeper") == privacy.MAX_FRAMES
    assert len(privacy.places(ExceptionGroup("many", [ValueError()] * 5000))) <= privacy.MAX_EXCEPTIONS


# -- what a process says by itself -----------------------------------------------------------------------------------

WAYS = {
    "uncaught": "raise ValueError(NOTE)",
    "a group": "raise ExceptionGroup(NOTE, [ValueError(NOTE)])",
    "cause": "try:\n    {}[NOTE]\nexcept KeyError as e:\n    raise ValueError(NOTE) from e",
    "thread": "t = threading.Thread(target=lambda: {}[NOTE]); t.start(); t.join()",
    "unraisable": "class D:\n    def __del__(self):\n        raise ValueError(NOTE)\nD()",
    "warning": "import warnings; warnings.warn(NOTE)",
    "library log": "logging.getLogger('lib').warning('%s', NOTE)",
    "library log, formatted": "logging.getLogger('lib').error(f'no {NOTE}', extra={'x': NOTE}, stack_info=True)",
    "library exception": "try:\n    {}[NOTE]\nexcept KeyError:\n    logging.getLogger('lib').exception(NOTE)",
    "record that cannot be formatted": "logging.getLogger('lib').warning('%d', NOTE)",
    "asyncio": """
async def main():
    async def fail(note): raise ValueError(note)
    task = asyncio.ensure_future(fail(NOTE)); await asyncio.sleep(0); del task; gc.collect()
    asyncio.get_running_loop().call_soon(lambda note: {}[note], NOTE); await asyncio.sleep(0.01)
    asyncio.get_running_loop().call_exception_handler({'message': NOTE, 'note': NOTE})
    future = asyncio.get_running_loop().create_future(); future.set_exception(ValueError(NOTE))
    del future; gc.collect()
asyncio.run(main(), debug=True)
""",
    "secret": "privacy.withhold(NOTE); privacy.say(f'it is {NOTE}')",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("log", [False, True], ids=["plain", "log"])
def test_whatever_happens(way: str, log: bool) -> None:
    """Something is said, and it holds nothing of the message; it names the place, as far as there is one."""
    code = (
        f"import asyncio, gc, logging, sys, threading\nfrom worker import privacy\nNOTE = {NOTE!r}\nprivacy.install()\n"
    )
    if log:
        code += "from worker import config, telemetry\ntelemetry.configure(config.LogSettings(level='debug'))\n"
    ended = subprocess.run([sys.executable, "-c", code + WAYS[way]], capture_output=True, text=True, check=False)
    assert "Canary" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert '"withheld"' not in ended.stderr
    assert "withheld=" not in ended.stderr
    assert ended.stderr
    if way != "secret":
        assert "<string>:" in ended.stderr or "asyncio/base_events.py:" in ended.stderr


def test_a_harmless_word_of_asyncio_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """So that an unclosed session can be told from a task that was forgotten."""
    record = logging.LogRecord("asyncio", logging.ERROR, "base_events.py", 7, f"Unclosed connection\n{NOTE}", (), None)
    heard: list[tuple[str, str, dict[str, Any]]] = []
    before = privacy._report
    privacy.report_by(lambda level, event, fields: heard.append((level, event, dict(fields))))
    try:
        privacy._Records().emit(record)
    finally:
        privacy.report_by(before)
    ((level, event, fields),) = heard
    assert (level, event) == ("error", "library")
    assert fields["reason"] == "Unclosed connection"
    assert NOTE not in str(fields) + capsys.readouterr().err


# -- reprs -----------------------------------------------------------------------------------------------------------


def test_no_repr_holds_a_body() -> None:
    """Values that hold bodies, and those that hold such values: they show fields at most."""
    change = Change(id=1, changes={"note": NOTE})
    answered = synced(note=NOTE, cancellation_note=NOTE, undocumented=NOTE)
    values = [
        change,
        Breach(change=change, problems=()),
        replace(claim([change]), changes=(change,)),
        Answer(fields=NOTE, resource=NOTE, last_change_id=1, set_by={"note": 1}),
        answered,
        Exchange(outcome=answered, started_at=0, ended_at=1),
        answered.resource,
        AppointmentUpdate(note=NOTE),
        AppointmentResource.model_validate({"id": "app_1", "note": NOTE, NOTE: NOTE}),
    ]
    for value in values:
        assert NOTE not in f"{value} {value!r}"
    assert repr(AppointmentUpdate(note=NOTE)) == "AppointmentUpdate(fields=['note'])"


@pytest.mark.parametrize("model", [AppointmentUpdate, AppointmentResource])
def test_no_validation_error_holds_a_body(model: type[AppointmentUpdate | AppointmentResource]) -> None:
    """Not even in the traceback that we never show."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate({"confirmed": NOTE, "note": [NOTE], "resource_ids": NOTE, "starts_at": NOTE})
    assert NOTE not in "".join(traceback.format_exception_only(caught.value))
