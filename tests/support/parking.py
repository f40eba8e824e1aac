"""Changes that are parked, and what comes after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from tests.support.claims import accepted, registered, settle, the_claim
from tests.support.database import Database
from tests.support.processes import environment
from tests.support.rawserver import closed_port
from worker.byhand import By
from worker.parked import Filter, ParkedChange, find

NOWHERE = f"http://127.0.0.1:{closed_port()}/v1"
NO_ROOM = "422 validation failed: room_id"
BY = By(who="ann@desk", reason="the room exists now")


def offline(database: Database, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command that needs no API."""
    return environment(database.dsn, NOWHERE, settings)


async def parked(
    database: Database,
    appointment_id: str,
    changes: Mapping[str, Any],
    *,
    account: str = "default",
    error: str = NO_ROOM,
    attempts: int = 1,
) -> int:
    """A change that the API refused a while ago, and nothing else of its appointment waits. Returns its id."""
    await registered(database, account=account)
    async with database.pool.acquire() as conn, conn.transaction():  # no service claims it before it is parked
        change = await database.write(appointment_id, changes, account=account, conn=conn)
        await _park(conn, change, error=error, attempts=attempts)
    return change


async def park(database: Database, change: int, *, error: str = NO_ROOM, attempts: int = 1) -> None:
    """Parks a change that is pending and was not claimed."""
    async with database.pool.acquire() as conn, conn.transaction():
        await _park(conn, change, error=error, attempts=attempts)


async def _park(conn: asyncpg.Connection, change: int, *, error: str, attempts: int) -> None:
    await conn.execute("DELETE FROM caspen_sync.arrival WHERE change_id = $1", change)
    await conn.execute(
        """
        WITH changed AS (
            UPDATE caspen_sync.outbox SET state = 'parked', last_error = $2, attempts = $3,
                finished_at = clock_timestamp()
            WHERE id = $1 RETURNING account, appointment_id, id
        )
        INSERT INTO caspen_sync.queue AS q (account, appointment_id, lane, due_at, newest_id)
        SELECT account, appointment_id, 'live', 'infinity', id FROM changed
        ON CONFLICT (account, appointment_id) DO UPDATE SET newest_id = greatest(q.newest_id, excluded.newest_id)
        """,
        change,
        error,
        attempts,
    )


async def synced(database: Database, appointment_id: str, changes: Mapping[str, Any]) -> int:
    """A change that the API accepted just now, with all that is pending of its appointment. Returns its id."""
    store = await registered(database)
    change = await database.write(appointment_id, changes)
    assert await settle(store, accepted(await the_claim(store))) == []
    return change


async def found(database: Database, *ids: int) -> list[ParkedChange]:
    """Those of these changes that are parked; all, without ids."""
    async with database.pool.acquire() as conn:
        return await find(conn, Filter(ids=ids or None))


async def state(database: Database, change: int) -> str:
    return str(await database.value("SELECT state FROM caspen_sync.outbox WHERE id = $1", change))
