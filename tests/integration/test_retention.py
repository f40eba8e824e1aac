"""Retention: what is finished goes when it is old, and nothing else does."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import structlog

from tests.support.canary import NOTE
from tests.support.claims import registered
from tests.support.database import Database
from tests.support.processes import command, environment
from tests.support.waiting import eventually
from worker import retention
from worker.retention import keep_retention, prune

DAYS = 30.0


async def aged(database: Database, state: str, *, days: float, account: str = "default") -> int:
    """A change that was written, and finished, that long ago, with one attempt of the same age and what was said."""
    change_id = await database.write(f"app_{state}", {"note": NOTE}, account=account)
    await database.pool.execute(
        """
        UPDATE caspen_sync.outbox
        SET state = $2, created_at = now() - make_interval(secs => $3 * 86400),
            finished_at = CASE WHEN $2 <> 'pending' THEN now() - make_interval(secs => $3 * 86400) END
        WHERE id = $1
        """,
        change_id,
        state,
        days,
    )
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.attempt (account, appointment_id, change_ids, started_at, duration_ms, outcome, worker)
        VALUES ($1, $2, ARRAY[$3::bigint], now() - make_interval(secs => $4 * 86400), 1, 'test', 'w')
        """,
        account,
        f"app_{state}",
        change_id,
        days,
    )
    await database.pool.execute(
        "INSERT INTO caspen_sync.rejection (account, change_id, at, messages) VALUES ($1, $2, now(), '{}')",
        account,
        change_id,
    )
    await database.pool.execute(
        "INSERT INTO caspen_sync.intervention (account, change_id, action, who) VALUES ($1, $2, 'retry', 'anna')",
        account,
        change_id,
    )
    return change_id


async def left(database: Database) -> dict[str, set[int]]:
    """The change ids that each table still speaks of."""
    tables = {"outbox": "id", "attempt": "change_ids[1]", "rejection": "change_id", "intervention": "change_id"}
    return {
        table: {row["id"] for row in await database.rows(f"SELECT {column} AS id FROM caspen_sync.{table}")}
        for table, column in tables.items()
    }


async def test_what_is_finished_and_old_goes(database: Database) -> None:
    """Synced and discarded changes beyond the retention, with all that belongs to them; in every account."""
    await registered(database)
    await registered(database, account="other")
    for state in ("synced", "discarded"):
        await aged(database, state, days=31)
    await aged(database, "synced", days=31, account="other")
    kept = {await aged(database, state, days=29) for state in ("synced", "discarded")}
    pruned = await prune(database.workers, retention_days=DAYS)
    assert (pruned.changes, pruned.attempts) == (3, 3)
    assert await left(database) == dict.fromkeys(("outbox", "attempt", "rejection", "intervention"), kept)


async def test_what_waits_stays_with_its_history(database: Database) -> None:
    """However old: what is pending or parked, its attempts, and what was said and done."""
    await registered(database)
    kept = {await aged(database, state, days=400) for state in ("pending", "parked")}
    gone = await aged(database, "synced", days=300)
    assert gone not in kept
    await prune(database.workers, retention_days=DAYS)
    assert await left(database) == dict.fromkeys(("outbox", "attempt", "rejection", "intervention"), kept)


async def test_finished_late_is_kept_from_then_on(database: Database) -> None:
    """What counts is when a change was finished, not when it was written."""
    await registered(database)
    change_id = await aged(database, "synced", days=100)
    await database.pool.execute("UPDATE caspen_sync.outbox SET finished_at = now() - interval '1 day'")
    await prune(database.workers, retention_days=DAYS)
    assert (await left(database))["outbox"] == {change_id}


async def test_many_steps(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk goes on over what it has to leave, and over many attempts of one moment."""
    monkeypatch.setattr(retention, "STEP", 7)
    await registered(database)
    for number in range(40):
        await aged(database, "parked" if number % 3 == 0 else "synced", days=60)
    pruned = await prune(database.workers, retention_days=DAYS)
    assert pruned.changes == 26
    assert set(await database.states()) == {"parked"}
    assert pruned.attempts == 26


async def test_a_row_that_somebody_holds_holds_up_nobody(database: Database) -> None:
    """It is left for the next time."""
    await registered(database)
    held = await aged(database, "synced", days=60)
    await aged(database, "discarded", days=60)
    async with database.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM caspen_sync.outbox WHERE id = $1 FOR UPDATE", held)
        async with asyncio.timeout(10):
            assert (await prune(database.workers, retention_days=DAYS)).changes == 1
    assert (await left(database))["outbox"] == {held}


async def test_the_command(database: Database) -> None:
    """Says what it did; the retention is the configured one."""
    await registered(database)
    await aged(database, "synced", days=8)
    env = environment(database.dsn, "http://127.0.0.1:9/v1", {"WORKER__RETENTION_DAYS": "7"})
    ended = await command("prune", env=env)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout == "deleted 1 finished change and 1 attempt older than 7 days\n"


class _AtOnce(random.Random):
    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002
        return 0.0


async def test_the_service_does_it_by_itself(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, through faults of the database, which it tells of."""
    monkeypatch.setattr(retention, "EVERY_S", 0.02)
    await registered(database)
    with structlog.testing.capture_logs() as events:
        await database.pool.execute("ALTER TABLE caspen_sync.attempt RENAME TO attempt_away")
        going_on: asyncio.Task[Any] = asyncio.create_task(
            keep_retention(database.workers, retention_days=DAYS, log=structlog.get_logger(), chance=_AtOnce())
        )
        await eventually(lambda: any(event["event"] == "prune_failed" for event in events))
        await database.pool.execute("ALTER TABLE caspen_sync.attempt_away RENAME TO attempt")
        await aged(database, "synced", days=60)
        await eventually(lambda: any(event["event"] == "pruned" for event in events))

        async def gone() -> bool:
            return await database.states() == {}

        await eventually(gone)
        going_on.cancel()
