"""What applications write into the outbox, made to hurt: it reaches the API as it was written, is nowhere else, and
breaks out of no statement, URL, log line, metric, page or terminal that it comes to."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from tests.support import canary
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
from tests.support.processes import command
from tests.support.roles import connected_with
from tests.support.statuspage import WITH_TOKEN, Surgery, Visitor, surgery
from tests.support.waiting import eventually

INSERT = (
    "INSERT INTO caspen_sync.outbox (account, appointment_id, changes, lane, source, traceparent) "
    "VALUES ($1, $2, $3, $4, $5, $6)"
)


async def written(database: Database, *rows: tuple[str, str, dict[str, Any], str]) -> None:
    """By an application that has nothing but its role: account, appointment, changes and lane. Source and traceparent
    are as hostile as the rest."""
    canary.sing([changes for _, _, changes, _ in rows])
    async with connected_with(database, "caspen_sync_writer") as conn:
        await conn.executemany(
            INSERT,
            [
                (account, appointment, json.dumps(changes), lane, f"ZSOURCEZ {appointment}", f"ZTRACEZ {appointment}")
                for account, appointment, changes, lane in rows
            ],
        )


async def looked_at(one: Surgery, *paths: str) -> None:
    """Pages of who is signed in, and of who is not."""
    signed_in = Visitor(one.address)
    await signed_in.sign_in()
    for visitor in (Visitor(one.address), signed_in):
        for path in ("/", "/accounts", "/parked", *paths):
            page = await visitor.get(path)
            assert page.status == 200, path
            assert_page(page.text)


async def test_what_is_valid_arrives_as_it_was_written(database: Database) -> None:
    """Each text as an id, a note, a source and a traceparent: the API gets exactly the ids and notes, under exactly
    those paths; source and traceparent stay where they are, and so does the schema."""
    before = await catalogue(database)
    ids = {name: f"app_ZIDZ {text}" for name, text in TEXTS.items()}
    notes = {name: f"ZNOTEZ {text}"[:255] for name, text in TEXTS.items()}
    async with surgery(database, **WITH_TOKEN) as one:
        await written(database, *(("default", ids[name], {"note": notes[name]}, "live") for name in TEXTS))
        await one.clinic.all_synced()
        appointments = one.clinic.sandbox.appointments
        assert {id_: appointments[id_]["note"] for id_ in appointments} == {ids[n]: notes[n] for n in TEXTS}
        assert {entry.http_status for entry in one.clinic.sandbox.log} == {200}
        synced = await database.rows("SELECT appointment_id, id, note FROM caspen_sync.appointment")
        assert {(row["appointment_id"], row["id"], row["note"]) for row in synced} == {
            (ids[name], ids[name], notes[name]) for name in TEXTS
        }
        await looked_at(one, *(f"/appointment?id={quote(id_, safe='')}" for id_ in list(ids.values())))
        assert_metrics((await one.web.scrape()).text)
    assert await catalogue(database) == before
    assert await database.states() == {"synced": len(TEXTS)}
    assert await tables_with(database, "ZIDZ") == {"outbox", "appointment_lock", "queue", "appointment", "attempt"}
    assert await tables_with(database, "ZNOTEZ") == {"outbox", "appointment"}
    assert await tables_with(database, "ZSOURCEZ") == await tables_with(database, "ZTRACEZ") == {"outbox"}
    events = assert_log(one.web.service.lines)
    assert not any("ZNOTEZ" in str(event) or "ZSOURCEZ" in str(event) for event in events)


async def test_what_is_invalid_parks_and_is_shown_as_text(database: Database) -> None:
    """Each text as a key, and as the value of each kind of field: none is sent, each is parked and named, and page,
    terminal and metrics show nothing but text."""
    before = await catalogue(database)
    wrong = ("location_id", "starts_at", "confirmed", "resource_ids")
    rows = [
        ("default", f"app_{name} {text}", {text: f"ZVALUEZ {text}", field: f"ZVALUEZ {text}"}, "live")
        for (name, text), field in zip(TEXTS.items(), wrong * len(TEXTS), strict=False)
    ]
    async with surgery(database, **WITH_TOKEN) as one:
        await written(database, *rows)
        await eventually(lambda: parked(database, len(rows)), what="all are parked")
        assert one.clinic.sandbox.log == []
        numbers = [row["id"] for row in await database.rows("SELECT id FROM caspen_sync.outbox ORDER BY id")]
        await looked_at(
            one,
            *(f"/change?account=default&id={number}" for number in numbers),
            *(f"/appointment?id={quote(row[1], safe='')}" for row in rows[:3]),
        )
        assert_metrics((await one.web.scrape()).text)
    assert await catalogue(database) == before
    assert await tables_with(database, "ZVALUEZ") == {"outbox"}
    errors = await database.rows("SELECT appointment_id, last_error FROM caspen_sync.outbox")
    for row in errors:
        assert "is not a field of the API" in row["last_error"]
        assert "ZVALUEZ" not in row["last_error"]
    assert_log(one.web.service.lines)
    for args in (["parked", "list"], ["parked", "show", str(numbers[9])]):
        ended = await command(*args, env=offline(database))
        assert (ended.exit_code, ended.stderr) == (0, "")
        assert_steers_nothing(ended.stdout)


async def parked(database: Database, count: int) -> bool:
    return await database.states() == {"parked": count}


async def test_accounts_that_an_application_makes_up(database: Database) -> None:
    """No worker has them, so nothing is sent; they are named in pages, figures and metrics as text, and a name ends no
    label."""
    before = await catalogue(database)
    async with surgery(database, **WITH_TOKEN) as one:
        await written(
            database, *((text, "app_1", {"note": "a long enough note"}, "backfill") for text in TEXTS.values())
        )
        scrape = await eventually(lambda: told_of_strangers(one, len(TEXTS)), what="they are counted")
        assert_metrics(scrape)
        await looked_at(
            one, *(f"/account?name={quote('default')}&x={quote(text)}" for text in list(TEXTS.values())[:2])
        )
        status = await Visitor(one.address).get("/api/status")
        told = {stranger["account"] for stranger in json.loads(status.text)["status"]["unregistered"]}
        assert told == set(TEXTS.values())
        assert one.clinic.sandbox.log == []
    assert await catalogue(database) == before
    assert await database.states() == {"pending": len(TEXTS)}
    assert_log(one.web.service.lines)
    ended = await command("status", env=offline(database))
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert_steers_nothing(ended.stdout)


async def told_of_strangers(one: Surgery, count: int) -> str | None:
    scrape = await one.web.scrape()
    return scrape.text if scrape.value("caspen_sync_unserved_accounts") == count else None


async def test_lanes_are_two_words(database: Database) -> None:
    """Nothing else is taken for a lane, and the refusal leaves nothing behind."""
    async with connected_with(database, "caspen_sync_writer") as conn:
        for text in TEXTS.values():
            with pytest.raises(asyncpg.CheckViolationError):
                await conn.execute(INSERT, "default", "app_1", '{"note": null}', text, None, None)
    assert await database.states() == {}


async def test_anybody_may_notify(database: Database) -> None:
    """A connection is enough to wake the workers, with any words and as often as one likes: nothing is done for
    accounts that are not theirs, nothing is logged, and the next change goes out."""
    async with surgery(database) as one:
        await written(database, ("hacked", "app_1", {"note": "a long enough note"}, "live"))
        said = len(one.web.service.lines)
        async with connected_with(database, None) as stranger:
            for _ in range(100):
                for text in ("hacked", "", "default", *TEXTS.values()):
                    await stranger.execute("SELECT pg_notify('caspen_sync', $1)", text)
        await written(database, ("default", "app_2", {"note": "a long enough note"}, "live"))
        await eventually(lambda: database.value("SELECT count(*) = 1 FROM caspen_sync.appointment"), what="it is sent")
        assert [entry.appointment for entry in one.clinic.sandbox.log] == ["app_2"]
        events = assert_log(one.web.service.lines)[said:]
        assert {event["event"] for event in events} <= {"request", "batch_settled"}
    assert await database.states() == {"pending": 1, "synced": 1}
    assert await database.value("SELECT account FROM caspen_sync.arrival") == "hacked"
    assert await database.value("SELECT count(*) FROM caspen_sync.queue") == 1
