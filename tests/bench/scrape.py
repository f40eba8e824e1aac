"""What scrapes cost beside a growing backlog, and what counting costs: `python -m tests.bench.scrape [ROWS]`."""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import aiohttp
import asyncpg
import psutil

from tests.support.outages import watched
from tests.support.processes import command, environment
from tests.support.settlements import LIMITS, claim, notes, sent, synced
from tests.support.web import address_of
from worker import policy
from worker.claims import Written
from worker.config import AccountSettings
from worker.embedded import embedded_postgres
from worker.metrics import Metrics
from worker.migrate import migrate
from worker.store import Store

NOWHERE = "http://127.0.0.1:1/v1"
SECONDS = 60.0
RATES = (0, 1, 20)
INSERT = """
    INSERT INTO caspen_sync.outbox (appointment_id, changes)
    SELECT 'app_' || i, '{{"note": null}}' FROM generate_series(1, {}) AS i
"""


async def main(rows: int) -> None:
    _measure_counting()
    with embedded_postgres() as dsn:
        pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2)
        async with pool.acquire() as conn:
            await migrate(conn)
            await conn.execute("SET statement_timeout = 0")
            postgres = psutil.Process(await conn.fetchval("SELECT pg_backend_pid()")).parent()
            assert postgres
            store = Store(pool, worker="bench")
            await store.register({"default": AccountSettings()}, timeout_s=30)
            await conn.execute(INSERT.format(rows), timeout=600)
            while await store.take_in(["default"]):
                pass
            await conn.execute("VACUUM ANALYZE", timeout=600)
        env = environment(dsn, NOWHERE, {"HTTP__LISTEN": "127.0.0.1:0"})
        assert (await command("pause", "default", env=env)).exit_code == 0
        async with watched(env) as service:
            url = f"http://{await address_of(service)}/metrics"
            for rate in RATES:
                await _measure(url, rate, postgres, psutil.Process(service.process.pid), rows)
        await pool.close()


async def _measure(url: str, rate: int, postgres: psutil.Process, worker: psutil.Process, rows: int) -> None:
    before_s, worker_before_s = _cpu_s(postgres), _own_cpu_s(worker)
    began = time.monotonic()
    took: list[float] = []
    async with aiohttp.ClientSession() as session:
        for number in range(int(rate * SECONDS)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            asked = time.monotonic()
            async with session.get(url) as answer:
                size = len(await answer.read())
            took.append(time.monotonic() - asked)
    await asyncio.sleep(max(0.0, began + SECONDS - time.monotonic()))
    span_s = time.monotonic() - began
    used, own = (_cpu_s(postgres) - before_s) / span_s, (_own_cpu_s(worker) - worker_before_s) / span_s
    line = f"{rows:>9,} pending, {rate:>2} a second: Postgres {used:6.1%} of a core, the service {own:6.1%}"
    print(line + (f"; {_spread(took)}, {size} bytes" if took else ""), flush=True)


def _measure_counting() -> None:
    metrics = Metrics()
    metrics.begin(["default"])
    settlement = policy.settle(claim(notes(1)), notes(1), sent(synced()), LIMITS, random.Random(1))
    batch = [replace(settlement)] * 8
    began = time.perf_counter()
    for _ in range(10_000):
        metrics.settled(batch, Written())
    print(f"counting a settlement: {(time.perf_counter() - began) / 80_000 * 1e6:.1f} µs")


def _cpu_s(postgres: psutil.Process) -> float:
    """Of the server with all its processes, those that have ended included."""
    times = postgres.cpu_times()
    return (
        _own_cpu_s(postgres) + times.children_user + times.children_system + sum(map(_own_cpu_s, postgres.children()))
    )


def _own_cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p99 = ordered[int(len(ordered) * 0.99) - 1]
    return f"p50 {statistics.median(ordered) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, most {ordered[-1] * 1000:.0f} ms"


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
