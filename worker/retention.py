"""Retention: what is finished is deleted when it is old enough, in small steps, so that nobody waits for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from worker import clock
from worker.database import understood
from worker.errors import DATABASE_FAULTS
from worker.sqlfiles import query
from worker.telemetry import Log

# Rows of one step, which is a transaction of its own.
STEP = 250
# Between two steps there is a rest, so many times as long as the step took: the work comes first.
REST_TIMES = 9

EVERY_S = 3600.0
DAY_S = 86_400.0


@dataclass(slots=True)
class Pruned:
    """What was deleted."""

    changes: int = 0
    attempts: int = 0
    lines: int = 0
    """Lines of backfills."""


def _nobody(_: Pruned) -> None:
    """Nobody looks on."""


async def prune(pool: asyncpg.Pool, *, retention_days: float, look_on: Callable[[Pruned], None] = _nobody) -> Pruned:
    """Deletes the finished changes, the attempts and the lines of backfills, of all accounts, that are older than the
    retention.

    What is pending or parked stays, and its attempts with it; so do the lines of a backfill that is not done. `look_on`
    is shown after each step what is deleted so far. Raises DatabaseUnreachable and the like; what was deleted by then
    stays deleted.
    """
    pruned = Pruned()
    with understood():
        accounts = [row["account"] for row in await pool.fetch(query("known_accounts"))]
    for account in accounts:
        async for deleted in _prune_changes(pool, account, retention_days * DAY_S):
            pruned.changes += deleted
            look_on(pruned)
        async for deleted in _prune_attempts(pool, account, retention_days * DAY_S):
            pruned.attempts += deleted
            look_on(pruned)
        async for deleted in _prune_backfills(pool, account, retention_days * DAY_S):
            pruned.lines += deleted
            look_on(pruned)
    return pruned


async def keep_retention(pool: asyncpg.Pool, *, retention_days: float, log: Log, chance: random.Random) -> None:
    """Prunes every hour, until cancelled; the first time within the first hour, so that services that started together
    do not begin together. What fails is done the next time."""
    await asyncio.sleep(chance.uniform(60.0, EVERY_S))
    while True:
        try:
            pruned = await prune(pool, retention_days=retention_days)
        except DATABASE_FAULTS as error:
            log.warning("prune_failed", error=str(error))
        else:
            if pruned.changes or pruned.attempts or pruned.lines:
                log.info("pruned", changes=pruned.changes, attempts=pruned.attempts, lines=pruned.lines)
        await asyncio.sleep(EVERY_S)


async def _prune_changes(pool: asyncpg.Pool, account: str, retention_s: float) -> AsyncIterator[int]:
    """How many each step deletes."""
    after_id: int | None = 0
    while after_id is not None:
        row = await _step(pool, query("prune_changes"), account, after_id, retention_s, STEP)
        yield row["deleted"]
        after_id = row["after_id"]


async def _prune_attempts(pool: asyncpg.Pool, account: str, retention_s: float) -> AsyncIterator[int]:
    from_time: datetime | None = datetime.min.replace(tzinfo=UTC)
    while from_time is not None:
        row = await _step(pool, query("prune_attempts"), account, from_time, retention_s, STEP)
        yield row["deleted"]
        from_time = row["from_time"]


async def _prune_backfills(pool: asyncpg.Pool, account: str, retention_s: float) -> AsyncIterator[int]:
    with understood():
        forgotten = await pool.fetch(query("forget_backfills"), account, retention_s)
    for backfill in forgotten:
        steps_left = True
        while steps_left:
            row = await _step(pool, query("prune_backfill"), account, backfill["name"], STEP)
            yield row["lines"]
            steps_left = STEP in (row["lines"], row["left_out"])


async def _step(pool: asyncpg.Pool, statement: str, *args: Any) -> asyncpg.Record:
    """One step of a walk, and the rest after it."""
    began = clock.now()
    with understood():
        row = await pool.fetchrow(statement, *args)
    await asyncio.sleep(REST_TIMES * (clock.now() - began))
    return row
