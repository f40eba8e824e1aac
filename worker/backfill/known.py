"""What a backfill of this name has already, for whoever gives its file again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import asyncpg

from worker.database import understood
from worker.errors import UsageError
from worker.sqlfiles import query

# Lines in one round trip.
PAGE = 20_000


async def known_lines(
    pool: asyncpg.Pool, name: str, accounts: Sequence[str]
) -> AsyncIterator[Sequence[tuple[str, str, UUID]]]:
    """Account, appointment and digest of each line of the backfill that is loaded, a page at a time.

    Raises UsageError for a name that is used up, and what a database does.
    """
    for row in await _known(pool, name, accounts):
        nth = 0
        while nth < row["loaded_nth"]:
            with understood():
                page = await pool.fetch(
                    query("backfill_known_lines"), row["account"], name, nth, row["loaded_nth"], PAGE
                )
            if not page:
                break
            nth = page[-1]["nth"]
            yield [(row["account"], line["appointment_id"], line["digest"]) for line in page]


async def unloaded_lines(pool: asyncpg.Pool, name: str, accounts: Sequence[str]) -> int:
    """How many lines of earlier runs are accepted and not loaded yet: the next run loads them. Raises as above."""
    return sum(row["unloaded"] for row in await _known(pool, name, accounts))


async def _known(pool: asyncpg.Pool, name: str, accounts: Sequence[str]) -> Sequence[asyncpg.Record]:
    with understood():
        found: Sequence[asyncpg.Record] = await pool.fetch(query("backfill_known"), list(accounts), name)
    for row in found:
        if ended := row["ended"]:
            raise UsageError(f"backfill {name}: {ended}; to load it all the same, give it another --name")
    return found
