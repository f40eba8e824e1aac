"""What newer changes have set already, of what a backfill would set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from worker.backfill.rows import Row
from worker.backfill.tally import Fate
from worker.database import understood
from worker.sqlfiles import query


async def fates(pool: asyncpg.Pool, rows: Sequence[Row], as_of: datetime) -> dict[int, Fate]:
    """By line, those of `rows` that would lose fields, or all, if the backfill were loaded now. Changes nothing.

    Raises what a database does.
    """
    appointments = list(dict.fromkeys((row.account, row.appointment_id) for row in rows))
    with understood():
        found = await pool.fetch(
            query("backfill_would_leave_out"),
            [account for account, _ in appointments],
            [appointment_id for _, appointment_id in appointments],
            as_of,
        )
    newer = {appointments[row["nth"] - 1]: frozenset(row["fields"]) for row in found}
    if not newer:
        return {}
    return {
        row.line: Fate.OUTDATED if fields.issuperset(row.fields) else Fate.LEFT_OUT
        for row in rows
        if (fields := newer.get((row.account, row.appointment_id))) and not fields.isdisjoint(row.fields)
    }
