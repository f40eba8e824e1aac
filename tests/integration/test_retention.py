"""Retention: what is finished goes when it is old, and nothing else does."""

from __future__ import annotations

import asyncio
import itertools
import random
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from tests.support.canary import NOTE
from tests.support.claims import registered
from tests.support.database import Database
from tests.support.loading import NAME, accepted, begun, loaded, moved, staged
from tests.support.processes import command, environment
from tests.support.terminal import at_a_terminal
from tests.support.waiting import eventually
from worker import clock, retention
from worker.errors import BackfillRefused
from worker.retention import keep_retention, prune
from worker.sqlfiles import query

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


async def test_two_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services and cron jobs prune side by side: none waits for another for ever, and what is deleted counts once."""
    monkeypatch.setattr(retention, "STEP", 10)
    monkeypatch.setattr(retention, "REST_TIMES", 0)
    await registered(database)
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.outbox (appointment_id, changes)
        SELECT 'app_' || i % 100, '{"note": null}' FROM generate_series(1, 2000) AS i
        """
    )
    await database.pool.execute(
        "UPDATE caspen_sync.outbox SET state = 'synced', created_at = now() - interval '41 days', "
        "finished_at = now() - interval '40 days'"
    )
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.attempt (account, appointment_id, change_ids, started_at, duration_ms, outcome, worker)
        SELECT account, appointment_id, ARRAY[id], created_at + id * interval '1 second', 1, 'test', 'w'
        FROM caspen_sync.outbox
        """
    )
    async with asyncio.timeout(60):
        pruned = await asyncio.gather(*(prune(database.pool, retention_days=DAYS) for _ in range(3)))
    assert sum(one.changes for one in pruned) == 2000
    assert sum(one.attempts for one in pruned) == 2000
    assert {table: len(ids) for table, ids in (await left(database)).items() if ids} == {}


async def test_the_work_comes_first(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each step there is a rest, so many times as long as the step took; whoever looks on sees how far it is."""
    monkeypatch.setattr(retention, "STEP", 2)
    await registered(database)
    for _ in range(4):
        await aged(database, "synced", days=60)
    seen: list[tuple[int, int]] = []
    rests: list[float] = []
    ticks = itertools.count()
    sleep = asyncio.sleep

    async def recorded(seconds: float) -> None:
        rests.append(seconds)
        await sleep(0)

    with monkeypatch.context() as patched:
        patched.setattr(clock, "now", lambda: next(ticks) * 2.0)  # so that each step takes two seconds
        patched.setattr(asyncio, "sleep", recorded)
        await prune(database.pool, retention_days=DAYS, look_on=lambda one: seen.append((one.changes, one.attempts)))
    assert rests == [2.0 * retention.REST_TIMES] * len(rests)
    assert len(rests) == len(seen)
    assert seen[:2] == [(2, 0), (4, 0)]
    assert seen[-1] == (4, 4)


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
    await aged(database, "synced", days=4)
    ended = await command("prune", env=env)
    assert ended.stdout == "deleted 0 finished changes and 0 attempts older than 7 days\n"
    ended = await command("prune", "--older-than", "3.5", env=env)
    assert ended.stdout == "deleted 1 finished change and 1 attempt older than 3.5 days\n"


async def test_in_a_terminal(database: Database) -> None:
    """It shows how far it is, and in the end the sum alone."""
    await registered(database)
    await aged(database, "synced", days=31)
    async with at_a_terminal("prune", env=environment(database.dsn, "http://127.0.0.1:9/v1")) as terminal:
        assert await terminal.ended() == 0
        assert "\r1 finished change and 0 attempts so far " in terminal.screen
        last = "\r\x1b[Kdeleted 1 finished change and 1 attempt older than 30 days\r\n"
        assert terminal.screen.endswith(last)


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


async def test_the_lines_of_a_backfill_that_is_done_go(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps, with what was left out of them; then its name is used up."""
    monkeypatch.setattr(retention, "STEP", 7)
    await loaded(database, [(f"app_{number}", {"room_id": number}) for number in range(20)])
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'synced', finished_at = now()")
    await registered(database)
    await database.pool.execute(
        "INSERT INTO caspen_sync.backfill_left_out (account, name, nth, line, appointment_id, change_id, fields, newer)"
        " SELECT account, name, nth, line, appointment_id, 1, '{note}', '{2}' FROM caspen_sync.backfill_line"
    )
    assert (await prune(database.workers, retention_days=1)).lines == 0
    await database.pool.execute("UPDATE caspen_sync.backfill SET touched_at = now() - interval '2 days'")
    assert (await prune(database.workers, retention_days=1)).lines == 0, "it was loaded just now"
    await database.pool.execute("UPDATE caspen_sync.backfill SET loaded_at = now() - interval '2 days'")
    assert (await prune(database.workers, retention_days=1)).lines == 0, "its last change was finished just now"
    await database.pool.execute("UPDATE caspen_sync.outbox SET finished_at = now() - interval '2 days'")
    assert (await prune(database.workers, retention_days=1)).lines == 20
    assert await database.value("SELECT count(*) FROM caspen_sync.backfill_left_out") == 0
    with pytest.raises(BackfillRefused, match="no longer known"):
        await begun(database)


@pytest.mark.parametrize("unfinished", ["pending", "parked", "unloaded", "being read"])
async def test_the_lines_of_a_backfill_that_is_not_done_stay(database: Database, unfinished: str) -> None:
    """However old it is; and whoever reads it at last is not robbed of what it has read."""
    await registered(database)
    staging, _ = await accepted(database, [("app_a", {"note": "n"})])
    if unfinished in ("pending", "parked"):
        await moved(database, staging)
        await database.pool.execute("UPDATE caspen_sync.outbox SET state = $1", unfinished)
    if unfinished == "being read":
        await moved(database, staging)
        await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'synced', finished_at = now()")
        staging = await staged(database, [("app_a", {"note": "n"}), ("app_b", {"note": "n"})])
    await database.pool.execute("UPDATE caspen_sync.backfill SET loaded_at = loaded_at - interval '2 days'")
    if unfinished != "being read":
        await database.pool.execute("UPDATE caspen_sync.backfill SET touched_at = now() - interval '2 days'")
    assert (await prune(database.workers, retention_days=1)).lines == 0
    if unfinished == "being read":
        assert (await staging.accept()).new == 1


async def test_a_backfill_that_was_killed_while_it_was_read_begins_anew(database: Database) -> None:
    """Its lines go when they are old, and its name is not used up, whether or not the deleting has come to its end."""
    await registered(database)
    await staged(database, [(f"app_{number}", {"room_id": number}) for number in range(3)])
    await database.pool.execute("UPDATE caspen_sync.backfill SET touched_at = now() - interval '2 days'")
    assert (await prune(database.workers, retention_days=1)).lines == 3
    staging = await staged(database, [("app_a", {"note": "n"})], as_of=datetime(2026, 1, 1, tzinfo=UTC))
    await database.pool.fetchrow(query("prune_backfill"), "default", NAME, 100)
    assert (await staging.accept()).new == 1
    await database.write("app_a", {"note": "newer"})
    assert (await moved(database, staging)).left_out == 1
    await database.pool.fetchrow(query("prune_backfill"), "default", NAME, 100)
    assert await database.value("SELECT count(*) FROM caspen_sync.backfill_left_out") == 1
