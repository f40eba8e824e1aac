"""What a claim costs beside a backlog: `python -m tests.bench.claim [ROWS]`.

Each backlog has a database of its own; all of them also have a thousand appointments that are due. Claims go round the
databases, so that whatever else the machine does meets all alike. What was claimed is given back, and is due again.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence

from tests.bench import databases
from tests.support.database import with_database
from worker import policy
from worker.config import AccountSettings, DatabaseSettings
from worker.database import pool
from worker.embedded import embedded_postgres
from worker.migrate import migrate
from worker.store import Store

ACCOUNTS = ["default"]
BATCH = 8
ROUNDS = 1000
WARM_UP = 50

INSERT = """
    INSERT INTO caspen_sync.outbox (appointment_id, changes)
    SELECT {}, '{{"note": "x"}}' FROM generate_series(1, {}) AS i
"""
AS_IT_IS = "SELECT"
FINISH = """
    UPDATE caspen_sync.outbox SET state = 'synced', finished_at = now() WHERE appointment_id LIKE 'more%';
    UPDATE caspen_sync.queue SET due_at = 'infinity' WHERE appointment_id LIKE 'more%'
"""
BACK_OFF = "UPDATE caspen_sync.queue SET due_at = now() + interval '1 hour' WHERE appointment_id LIKE 'more%'"


async def main(rows: int) -> None:
    # What is in the tables besides, as written and as changed then.
    backlogs = {
        "1,000 pending": (("'more'", 0), AS_IT_IS),
        f"beside {rows:,} pending": (("'more_' || i", rows), AS_IT_IS),
        f"beside {rows:,} finished": (("'more_' || i", rows), FINISH),
        f"beside {rows // 10:,} backing off": (("'more_' || i", rows // 10), BACK_OFF),
        f"beside one with {rows // 100:,} changes": (("'more'", rows // 100), BACK_OFF),
        f"one of them with {rows // 100:,} changes": (("'more'", rows // 100), AS_IT_IS),
    }
    async with contextlib.AsyncExitStack() as stack:
        dsn = stack.enter_context(embedded_postgres())
        stores: dict[str, Store] = {}
        for number, (what, (more, then)) in enumerate(backlogs.items()):
            stores[what] = await stack.enter_async_context(_store(dsn, f"claims_{number}", more, then))
        seconds: dict[str, list[float]] = {what: [] for what in stores}
        for turn in range(-WARM_UP, ROUNDS):
            for what, store in stores.items():
                took_s = await _claim(store)
                if turn >= 0:
                    seconds[what].append(took_s)
    first = next(iter(seconds.values()))
    for what, all_s in seconds.items():
        p50_s, p99_s = statistics.median(all_s), _p99(all_s)
        print(
            f"{what:<36} p50 {p50_s * 1000:6.2f} ms  p99 {p99_s * 1000:6.2f} ms  "
            f"x {p50_s / statistics.median(first):4.2f}  x {p99_s / _p99(first):4.2f}",
            flush=True,
        )


@contextlib.asynccontextmanager
async def _store(dsn: str, name: str, more: tuple[str, int], then: str) -> AsyncIterator[Store]:
    """Of a database with its backlog, vacuumed and on disk."""
    async with databases.connected(dsn) as conn:
        await conn.execute(f"CREATE DATABASE {name}")
    dsn = with_database(dsn, name)
    async with pool(DatabaseSettings.model_validate({"dsn": dsn}), max_size=1) as connections:
        store = Store(connections, worker="bench")
        async with databases.connected(dsn) as conn:
            await migrate(conn)
        await store.register({"default": AccountSettings()})
        async with databases.connected(dsn) as conn:  # another one, which waits for autovacuum
            for appointments, count in (("'due_' || i", 1000), more):
                await conn.execute(INSERT.format(appointments, count), timeout=600)
                while await store.take_in(ACCOUNTS):
                    pass
            await conn.execute(then, timeout=600)
            await conn.execute("VACUUM ANALYZE", timeout=600)
            await conn.execute("CHECKPOINT", timeout=600)
        yield store


async def _claim(store: Store) -> float:
    """Seconds that a claim took."""
    began = time.perf_counter()
    claims = await store.claim({"default": BATCH}, timeout_s=30, lease_s=75, max_changes=1000)
    took_s = time.perf_counter() - began
    await store.settle([policy.release(claim) for claim in claims], {"default": 60.5})
    return took_s


def _p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99) - 1]


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
