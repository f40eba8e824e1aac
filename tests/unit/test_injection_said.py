"""Other people's texts in what a person reads: no escape sequence reaches a terminal, no line of theirs looks like one
of ours, and no command that is offered does more than it says."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys

import pytest

from tests.support.statuses import account
from worker import privacy, telemetry
from worker.check.pauses import pause_finding
from worker.cli import main
from worker.config import LogSettings
from worker.errors import CaspenSyncError, ConfigError
from worker.report import why_paused

TOKEN = "caspen-live-5b1d77"
STEERING = "\x1b[2J\x9b1m\u202e\u2066\x07"
# Whatever str.splitlines, a terminal, journald or a JavaScript reader of logs takes for the end of a line.
ENDS = "\n\r\v\f\x1c\x85\u2028\u2029"
FORGED = f"x{ENDS}caspen-sync: everything is synced{STEERING}"


@pytest.mark.parametrize("text", [FORGED, f"{ENDS}", "\r\ncaspen-sync: x"], ids=["forged", "ends", "crlf"])
def test_a_text_with_line_ends_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name or a person's reason adds no line to those of ours."""
    privacy.say(f"reason: {text}")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("caspen-sync: reason: ")
    assert line.isprintable()


def test_lines_of_our_own(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that has a line for each bad key has as many on stderr, whatever the keys hold."""
    error = ConfigError(f"a{FORGED}: no such key", "b: no such key")
    privacy.say(*error.lines)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("caspen-sync: ax")
    assert second == "caspen-sync: b: no such key"
    assert str(CaspenSyncError("one", "two")) == "one\ntwo"


@pytest.mark.parametrize(
    "args",
    [
        ["status", f"--{STEERING}"],
        ["status", f"--log-={STEERING}"],
        ["backfill", "list", f"--{FORGED}"],
        [STEERING],
        ["run", "--textfile", FORGED],
        ["backfill", "x.csv", "--rejects", f"/dev/{FORGED}"],
        ["sandbox", "--fault", FORGED],
    ],
    ids=["option", "ambiguous", "lines", "command", "textfile", "rejects", "fault"],
)
def test_bad_usage_steers_no_terminal(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The reason stays in the last line, and holds nothing but text."""
    with pytest.raises(SystemExit):
        main(args)
    *usage, reason = capsys.readouterr().err.split("\n")[:-1]
    assert reason.startswith("caspen-sync")
    assert reason.isprintable()
    assert not any(line.startswith("caspen-sync") for line in usage)


@pytest.mark.parametrize(
    "args", [["status", f"--log-={TOKEN}"], ["backfill", f"--n={TOKEN}"]], ids=["status", "backfill"]
)
def test_an_ambiguous_option_is_named_without_its_value(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It may have been a token, as with an option that there is not."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    said = capsys.readouterr().err
    assert ended.value.code == 64
    assert f"ambiguous option: {args[1].partition('=')[0]} could match" in said
    assert TOKEN not in said


def test_a_log_for_people_steers_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """An appointment's id is an application's: each event stays one line of text, with every version of structlog."""
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)
    telemetry.configure(LogSettings(format="console", level="debug"))
    try:
        telemetry.log().info("change_parked", appointment_id=FORGED, accounts=[FORGED], reasons={FORGED: 1})
    finally:
        telemetry.configure(LogSettings(format="json", level="debug"))
    (line,) = heard.getvalue().splitlines()
    assert "change_parked" in line
    assert line.isprintable()


@pytest.mark.parametrize("name", ["a; touch /tmp/x", "$(id)", "a b", "'\"`id`", "north"])
def test_a_command_that_is_offered_names_the_account(name: str) -> None:
    """Pasted into a shell it is that command with that account, and runs nothing else."""
    paused = account(name, pause_kind="manual", pause_reason="why")
    for text in (why_paused(paused), pause_finding(name, "manual", "why").mend):
        offered = f"caspen-sync{text.rpartition('caspen-sync')[2]}"
        assert shlex.split(offered) == ["caspen-sync", "resume", name]
        echoed = subprocess.run(
            ["/bin/sh", "-c", offered.replace("caspen-sync resume", "printf %s", 1)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert echoed.stdout == name
