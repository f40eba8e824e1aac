"""Changes that wait for ever: pending, and nothing will make their appointment due."""

from __future__ import annotations

import asyncpg

from worker.check.finding import Finding, failed, ok
from worker.config import Settings
from worker.sqlfiles import query

NAME = "woken"
# Of each account. A tenth of a second, also where a million changes wait.
MOST_CHANGES = 10_000


async def woken(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """That a worker will come by every pending change. It does not where the trigger outbox_arrival was off, or where
    somebody set a state to pending by hand."""
    rows = await conn.fetch(query("check_woken"), MOST_CHANGES)
    bounded = any(row["looked_at"] >= MOST_CHANGES for row in rows)
    lost = [row for row in rows if row["unknown"]]
    if not lost:
        seen = f"of each account the first {MOST_CHANGES}" if bounded else "each"
        return [ok(NAME, f"a worker will come by what is pending: looked at {seen}")]
    count = sum(row["unknown"] for row in lost)
    said = (
        f"{'at least ' if bounded else ''}{count} appointment{'' if count == 1 else 's'} with pending changes that no "
        f"worker will come by, such as {lost[0]['appointment_id']} of account {lost[0]['account']}: the trigger "
        "outbox_arrival did not fire, or a state was set to pending by hand"
    )
    return [failed(NAME, said, wake())]


def wake() -> str:
    """The SQL that makes them due, on one line."""
    lines = query("check_wake").splitlines()
    return " ".join(line.strip() for line in lines if not line.startswith("--")) + ";"
