"""What claims and settling cost while old rows are deleted beside them: `python -m tests.bench.retention [ROWS]`.

Rounds with and without pruning take turns, so that whatever else goes on meets both alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg

from tests.support.claims import accepted
from worker import retention
from worker.config import AccountSettings, DatabaseSettings
from worker.database import connection, pool
from worker.embedded import embedded_postgres
from worker.migrate import migrate
from worker.retention import prune
from worker.sqlfiles import query
from worker.store import Store

BATCH = 8
ROUND_S = 5.0
DAYS = 30.0

OLD = """
    INSERT INTO caspen_sync.outbox (appointment_id, changes)
    SELECT 'old_' || i, jsonb_build_object('note', repeat('x', 60), 'room_id', i) FROM generate_series(1, $1::int) AS i;
    DELETE FROM caspen_sync.arrival;
    UPDATE caspen_sync.outbox SET state = 'synced', created_at = now() - interval '41 days',
        finished_at = now() - interval '40 days', attempts = 1;
    INSERT INTO caspen_sync.attempt (account, appointment_id, change_ids, started_at, duration_ms, http_status,
                                     outcome, worker)
    SELECT account, appointment_id, ARRAY[id], now() - interval '41 days' + id * interval '10 milliseconds', 90, 200,
           'synced', 'old' FROM caspen_sync.outbox;
    VACUUM (ANALYZE) caspen_sync.outbox;
    VACUUM (ANALYZE) caspen_sync.attempt;
"""
NEW = """
    INSERT INTO caspen_sync.outbox (appointment_id, changes)
    SELECT 'new_' || i, '{"note": "x"}' FROM generate_series(1, 400000) AS i
"""


async def main(rows: int) -> None:
    with embedded_postgres() as dsn:
        settings = DatabaseSettings.model_validate({"dsn": dsn})
        async with (
            connection(settings) as conn,
            pool(settings, max_size=2) as connections,
            pool(settings, max_size=1) as pruners,
        ):
            await migrate(conn)
            await conn.execute("SET statement_timeout = 0")
            for statement in OLD.replace("$1", str(rows)).split(";")[:-1]:
                await conn.execute(statement, timeout=900)
            store = Store(connections, worker="bench")
            await store.register({"default": AccountSettings()})
            await conn.execute(NEW, timeout=900)
            while await store.take_in(["default"]):
                pass
            await conn.execute("CHECKPOINT", timeout=900)

            await _wal(conn)

            quiet: list[list[float]] = []
            beside: list[list[float]] = []
            while await _old_is_left(conn):
                quiet.append(await _round(store))
                beside.append(await _round(store, pruners))
            _tell("without pruning", quiet)
            _tell("beside pruning", beside)
            seconds = len(beside) * ROUND_S
            print(f"deleted {rows:,} changes and as many attempts beside, within {seconds:.0f} s; {await _dead(conn)}")


async def _round(store: Store, pruners: asyncpg.Pool | None = None) -> list[float]:
    """Seconds of each claim with its settling."""
    pruning = asyncio.ensure_future(prune(pruners, retention_days=DAYS)) if pruners else None
    seconds = []
    ends_at = time.monotonic() + ROUND_S
    while time.monotonic() < ends_at:
        began = time.perf_counter()
        claims = await store.claim({"default": BATCH}, timeout_s=30, lease_s=75, max_changes=1000)
        await store.settle([accepted(claim) for claim in claims], {"default": 0.0})
        seconds.append(time.perf_counter() - began)
        assert len(claims) == BATCH
        await asyncio.sleep(0.005)
    if pruning:
        pruning.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pruning
    return seconds


async def _wal(conn: asyncpg.Connection) -> None:
    """How long one step of each kind takes, and how much WAL it writes."""
    for name, start in (("prune_changes", 0), ("prune_attempts", datetime.min.replace(tzinfo=UTC))):
        statement = await conn.prepare(query(name))
        transaction = conn.transaction()
        await transaction.start()
        plan = await statement.explain("default", start, DAYS * retention.DAY_S, retention.STEP, analyze=True)
        print(f"{name}: {plan[0]['Execution Time']:.1f} ms for a step of {retention.STEP} rows", flush=True)
        await transaction.rollback()


async def _old_is_left(conn: asyncpg.Connection) -> bool:
    """Attempts go last."""
    return bool(await conn.fetchval("SELECT EXISTS (SELECT FROM caspen_sync.attempt WHERE worker = 'old')"))


async def _dead(conn: asyncpg.Connection) -> str:
    rows = await conn.fetch(
        "SELECT relname, n_dead_tup, autovacuum_count FROM pg_stat_user_tables WHERE relname IN ('outbox', 'attempt')"
    )
    return ", ".join(f"{r['relname']}: {r['n_dead_tup']:,} dead, {r['autovacuum_count']} autovacuums" for r in rows)


def _tell(what: str, rounds: Sequence[Sequence[float]]) -> None:
    """The median of the rounds' p50 and p99, and the worst of all."""
    p50_ms = statistics.median(statistics.median(one) for one in rounds) * 1000
    p99_ms = statistics.median(sorted(one)[int(len(one) * 0.99) - 1] for one in rounds) * 1000
    worst_ms = max(map(max, rounds)) * 1000
    times = f"p50 {p50_ms:5.1f} ms   p99 {p99_ms:5.1f} ms   worst {worst_ms:6.1f} ms"
    print(f"{what:<16} {times}   {sum(map(len, rounds)):,} claims of {BATCH} in {len(rounds)} rounds", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        retention.STEP, retention.REST_TIMES = int(sys.argv[2]), int(sys.argv[3])
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
