"""Backfills that were loaded, and a process that does nothing but wait for one: `python -m` this module, with the
backfill's name and its accounts."""

from __future__ import annotations

import asyncio
import sys

from tests.support import canary
from tests.support.database import Database
from worker import privacy
from worker.config import load
from worker.errors import CaspenSyncError

MODULE = "tests.support.backfilling"


async def backfill(
    database: Database, name: str, *, lines: int, account: str = "default", note: str = canary.NOTE, first: int = 0
) -> None:
    """Loads one with a change for each of so many appointments, from app_0 on."""
    await database.pool.execute(
        "INSERT INTO caspen_sync.backfill (account, name, started_by, token, accepted_nth, loaded_nth, lines, loaded,"
        " loaded_at) VALUES ($1, $2, 'ann@desk', gen_random_uuid(), $3, $3, $3, $3, now())",
        account,
        name,
        lines,
    )
    await database.pool.execute(
        "INSERT INTO caspen_sync.outbox (account, appointment_id, changes, lane, source, as_of)"
        " SELECT $1, 'app_' || n, jsonb_build_object('note', $4::text), 'backfill', $2, now()"
        " FROM generate_series($5::int, $5::int + $3::int - 1) AS n",
        account,
        name,
        lines,
        note,
        first,
    )


def main() -> int:
    """As `caspen-sync backfill FILE` once everything is loaded."""
    from worker.cli.waiting import wait_for

    privacy.install()
    name, *accounts = sys.argv[1:]
    settings = load(None, {"log": {"level": "warning"}})
    try:
        return int(asyncio.run(wait_for(settings, name, accounts or ["default"])))
    except CaspenSyncError as error:
        privacy.say(str(error))
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
