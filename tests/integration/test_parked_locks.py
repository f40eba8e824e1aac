"""A person's decision that meets a lock: it is given up soon, and what was done before that is said."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.support.database import Database
from tests.support.parking import BY, found, parked, state
from tests.support.statuspage import WITH_TOKEN, Visitor, surgery
from worker.errors import DatabaseUnreachable
from worker.parked import discard, retry

Decision = Callable[..., Awaitable[Any]]
BOTH: tuple[Decision, ...] = (retry, discard)


@contextlib.asynccontextmanager
async def locked(database: Database, sql: str, *args: Any) -> AsyncIterator[asyncpg.Connection]:
    """Somebody holds what this locks."""
    async with database.pool.acquire() as conn, conn.transaction():
        await conn.execute(sql, *args)
        yield conn


CHANGE = "SELECT FROM caspen_sync.outbox WHERE id = $1 FOR UPDATE"


@pytest.mark.parametrize("decide", BOTH)
async def test_it_is_given_up_soon(database: Database, decide: Decision) -> None:
    """And nothing of it is done."""
    change = await parked(database, "app_1", {"room_id": 7})
    async with locked(database, CHANGE, change), database.pool.acquire() as conn:
        began = time.monotonic()
        with pytest.raises(
            DatabaseUnreachable, match="somebody holds a lock that this needs; it was not done, try again"
        ):
            await decide(conn, await found(database, change), BY)
        assert time.monotonic() - began < 10
    assert await state(database, change) == "parked"


@pytest.mark.parametrize("decide", BOTH)
async def test_a_run_of_its_backfill_holds_it_up_no_longer(database: Database, decide: Decision) -> None:
    """Whoever accepts a backfill holds its row for as long as there are lines to look at."""
    change = await parked(database, "app_1", {"room_id": 7})
    run = database.pool.execute
    await run("UPDATE caspen_sync.outbox SET lane = 'backfill', source = 'may.csv' WHERE id = $1", change)
    await run(
        "INSERT INTO caspen_sync.appointment (account, appointment_id, resource, synced_at, last_change_id, set_by)"
        " VALUES ('default', 'app_1', '{}', now(), 999, '{\"room_id\": 999}')"
    )
    await run(
        "INSERT INTO caspen_sync.backfill (account, name, started_by, token)"
        " VALUES ('default', 'may.csv', 'ann', gen_random_uuid())"
    )
    async with locked(database, "SELECT FROM caspen_sync.backfill FOR UPDATE"), database.pool.acquire() as conn:
        with pytest.raises(DatabaseUnreachable, match="somebody holds a lock"):
            await decide(conn, await found(database, change), BY)
    assert await state(database, change) == "parked"


@pytest.mark.parametrize("decide", BOTH)
async def test_what_was_done_before_is_said(database: Database, decide: Decision) -> None:
    """Each account's changes are a transaction of their own."""
    first = await parked(database, "app_1", {"room_id": 7})
    second = await parked(database, "app_1", {"room_id": 7}, account="north")
    async with locked(database, CHANGE, second), database.pool.acquire() as conn:
        with pytest.raises(DatabaseUnreachable, match="1 of 2 changes were done, and then: database: somebody holds"):
            await decide(conn, await found(database, first, second), BY)
    assert await state(database, first) == {retry: "pending", discard: "discarded"}[decide]
    assert await state(database, second) == "parked"


async def test_the_page_says_so(database: Database) -> None:
    """To who decided, and other pages go on."""
    change = await parked(database, "app_1", {"room_id": 7})
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = Visitor(one.address)
        await visitor.sign_in()
        form = {"word": visitor.word, "id": str(change), "account": "default", "from": "change", "sure": "1"}
        async with locked(database, CHANGE, change):
            page = await visitor.post("/discard", form)
            assert (page.status, "somebody holds a lock" in page.text) == (503, True)
            assert (await visitor.get("/parked")).status == 200
        assert (await visitor.post("/discard", form)).status == 303
    assert await state(database, change) == "discarded"


@pytest.mark.long
async def test_a_page_that_takes_too_long(database: Database) -> None:
    """It is told before the connection is cut, and the database is free for the next page."""
    await parked(database, "app_1", {"room_id": 7})
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = Visitor(one.address)
        async with locked(database, "LOCK TABLE caspen_sync.intervention"):
            page = await visitor.get("/change?account=default&id=1")
            assert (page.status, "This takes too long. Look again in a moment." in page.text) == (503, True)
        assert (await visitor.get("/change?account=default&id=1")).status == 200
