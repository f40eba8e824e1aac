"""What a claim costs beside a growing backlog: `python -m tests.bench.claim [ROWS]`."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence

from worker import policy
from worker.config import AccountSettings, DatabaseSettings
from worker.database import connection, pool
from worker.embedded import embedded_postgres
from worker.migrate import migrate
from worker.store import Store

ACCOUNTS = ["default"]
BATCH = 8
ROUNDS = 200

INSERT = """
    INSERT INTO caspen_sync.outbox (appointment_id, changes)
    SELECT {}, '{{"note": "x"}}' FROM generate_series(1, {}) AS i
"""
FINISH = """
    UPDATE caspen_sync.outbox SET state = 'synced', finished_at = now() WHERE appointment_id LIKE 'fin%';
    UPDATE caspen_sync.queue SET due_at = 'infinity' WHERE appointment_id LIKE 'fin%';
    VACUUM ANALYZE
"""
BACK_OFF = "UPDATE caspen_sync.queue SET due_at = now() + interval '1 hour' WHERE appointment_id LIKE 'wait%'"


async def main(rows: int) -> None:
    with embedded_postgres() as dsn:
        settings = DatabaseSettings.model_validate({"dsn": dsn})
        async with connection(settings) as conn, pool(settings, max_size=2) as connections:
            await migrate(conn)
            await conn.execute("SET statement_timeout = 0")
            store = Store(connections, worker="bench")
            await store.register({"default": AccountSettings()})

            async def write(appointment: str, count: int) -> None:
                await conn.execute(INSERT.format(appointment, count), timeout=600)
                while await store.take_in(ACCOUNTS):
                    pass

            await write("'due_' || i", 1000)
            await _measure(store, "1,000 pending")
            await write("'fin_' || i", rows)
            await _measure(store, f"{rows + 1000:,} pending")
            for statement in FINISH.split(";"):
                await conn.execute(statement, timeout=600)
            await _measure(store, f"beside {rows:,} finished")
            await write("'wait_' || i", rows // 10)
            await conn.execute(BACK_OFF, timeout=600)
            await _measure(store, f"beside {rows // 10:,} backing off")
            await write("'hot'", rows // 100)
            await _measure(store, f"beside one with {rows // 100:,}")


async def _measure(store: Store, what: str) -> None:
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        claims = await store.claim({"default": BATCH}, timeout_s=30, lease_s=75, max_changes=1000)
        seconds.append(time.perf_counter() - began)
        await store.settle([policy.release(claim) for claim in claims], {"default": 60.5})
    p50_ms, p99_ms = statistics.median(seconds) * 1000, _p99(seconds) * 1000
    print(f"{what:<28} p50 {p50_ms:6.2f} ms   p99 {p99_ms:6.2f} ms", flush=True)


def _p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99) - 1]


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
