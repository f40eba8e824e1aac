"""What the API answers, made to hurt: it is stored as it was said, is shown as text to who may see it, and breaks out
of no statement, log line, metric, page or terminal that it comes to."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.database import Database
from tests.support.hostile import (
    TEXTS,
    assert_log,
    assert_metrics,
    assert_page,
    assert_steers_nothing,
    catalogue,
    tables_with,
)
from tests.support.parking import offline
from tests.support.processes import command, environment, stop
from tests.support.rawserver import Request, answer, raw_server
from tests.support.statuspage import WITH_TOKEN, Visitor
from tests.support.waiting import eventually
from tests.support.web import Web, web
from worker.contract import AppointmentResource

TIMES = {"starts_at", "ends_at", "confirmed_at", "cancelled_at", "created_at"}
NO_TEXT = {"duration", "confirmed", "resource_ids"}
TEXT_FIELDS = sorted(set(AppointmentResource.model_fields) - TIMES - NO_TEXT)
# In a header, a line feed ends it; whatever else a byte may be, it may be there.
HEADER = "hacked'; DROP TABLE caspen_sync.outbox; -- \x1b[2J\x9b<script>\"} 1 \xff"
HEADERS = [
    f"{name}: {HEADER}"
    for name in (
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
        "Date",
        "Location",
        "Set-Cookie",
        "Content-Type",
        "Server",
        "WWW-Authenticate",
        "Link",
        "Refresh",
        "Deprecation",
    )
]
SAID = "ZSAIDZ"


def resource(text: str) -> dict[str, Any]:
    """An answer whose every text is this one, undocumented fields and their names too."""
    return {
        **dict.fromkeys(TEXT_FIELDS, f"{SAID} {text}"),
        "resource_ids": [f"{SAID} {text}"],
        text: {text: [f"{SAID} {text}"]},
    }


def rejection(text: str) -> dict[str, Any]:
    """A 422 whose every text is this one."""
    return {
        "message": f"{SAID} {text}",
        "errors": {"note": [f"{SAID} {text}"], f"{text[:40]}": [f"{SAID} {text}"], "room_id": {text: text}},
        text: text,
    }


async def hostile(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answers by the appointment: app_KIND_NAME."""
    _, kind, name = request.path.rpartition("/")[2].split("_")
    text = list(TEXTS.values())[int(name)]
    match kind:
        case "accepted":
            raw = answer("200 hacked \x1b[2J", json.dumps(resource(text)).encode(), *HEADERS)
        case "rejected":
            raw = answer("422 hacked \x1b[2J", json.dumps(rejection(text)).encode(), *HEADERS)
        case "moved":
            raw = answer("302 hacked", text.encode(), *HEADERS)
        case _:
            raw = answer("409 hacked", text.encode(), f"Retry-After: {HEADER}", *HEADERS)
    writer.write(raw)
    await writer.drain()


@pytest.mark.long
async def test_whatever_the_api_says_is_text(database: Database) -> None:
    """Accepted: every field arrives as it was said, in its column and in `resource`, and nowhere else. Rejected: the
    words are kept for who decides over the change, and nowhere else; page and terminal show them as text."""
    before = await catalogue(database)
    texts = list(TEXTS.values())
    # Few enough rejections in a row that the account does not pause.
    kinds = [f"accepted_{n}" for n in range(len(texts))] + [f"rejected_{n}" for n in range(len(texts))]
    kinds += ["moved_1", "conflict_2"]
    settings = {**WITH_TOKEN, "RETRY__REJECTED_AFTER": "1000", "HTTP__LISTEN": "127.0.0.1:0"}
    async with raw_server(hostile) as server:
        async with web(environment(database.dsn, server.base_url, settings)) as service:
            for kind in kinds:
                await database.write(f"app_{kind}", {"note": f"a long enough note {kind}"})
            await eventually(lambda: done(database), what="all are settled")
            await looked_at(database, service)
            assert await stop(service.service.process) == 0
        lines = [request.line for request in server.requests]
        assert len(lines) == len(kinds)
        assert {line.partition("app_")[0] for line in lines} == {"POST /v1/appointments/"}
    assert await catalogue(database) == before
    assert await database.states() == {"synced": len(texts), "parked": len(kinds) - len(texts)}

    for row in await database.rows("SELECT * FROM caspen_sync.appointment"):
        text = texts[int(row["appointment_id"].rpartition("_")[2])]
        assert {row[field] for field in TEXT_FIELDS} == {f"{SAID} {text}"}
        assert row["resource_ids"] == [f"{SAID} {text}"]
        assert json.loads(row["resource"]) == resource(text)
    assert await tables_with(database, SAID) == {"appointment", "rejection"}
    told = await database.rows("SELECT last_error FROM caspen_sync.outbox WHERE last_error IS NOT NULL")
    assert {row["last_error"] for row in told} == {
        "422 validation failed: note, room_id",
        "302 redirect, which is not followed",
        "409 conflicts with the current state",
    }
    events = assert_log(service.service.lines)
    assert not any(SAID in str(event) or "hacked" in str(event) for event in events)

    number = await database.value(
        "SELECT change_id FROM caspen_sync.rejection WHERE position($1 IN messages->>'message') > 0", TEXTS["terminal"]
    )
    ended = await command("parked", "show", str(number), env=offline(database))
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert SAID in ended.stdout
    assert_steers_nothing(ended.stdout)


async def done(database: Database) -> bool:
    return "pending" not in await database.states()


async def looked_at(database: Database, service: Web) -> None:
    """What the API said is there for who has signed in, as text, and for nobody else."""
    visitor, signed_in = Visitor(service.address), Visitor(service.address)
    await signed_in.sign_in()
    for row in await database.rows("SELECT change_id FROM caspen_sync.rejection"):
        path = f"/change?account=default&id={row['change_id']}"
        page = await visitor.get(path)
        assert SAID not in page.text
        shown = await signed_in.get(path)
        assert SAID in shown.text
        for text in (page.text, shown.text):
            assert_page(text)
    for path in ("/", "/parked", "/accounts", "/appointment?id=app_rejected_5", "/appointment?id=app_accepted_5"):
        page = await signed_in.get(path)
        assert page.status == 200
        assert SAID not in page.text
        assert_page(page.text)
    assert_metrics((await service.scrape()).text)
