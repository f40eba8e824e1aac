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

from tests.bench.backlog import Beside, backlog
from tests.support.settlements import LIMITS, claim, notes, sent, synced
from worker import policy
from worker.claims import Written
from worker.metrics import Metrics

SECONDS = 60.0
RATES = (0, 1, 20)


async def main(rows: int) -> None:
    _measure_counting()
    async with backlog(rows) as beside:
        for rate in RATES:
            await _measure(beside, rate, rows)


async def _measure(beside: Beside, rate: int, rows: int) -> None:
    before, began = beside.cpu_s(), time.monotonic()
    took: list[float] = []
    async with aiohttp.ClientSession() as session:
        for number in range(int(rate * SECONDS)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            asked = time.monotonic()
            async with session.get(f"http://{beside.address}/metrics") as answer:
                size = len(await answer.read())
            took.append(time.monotonic() - asked)
    await asyncio.sleep(max(0.0, began + SECONDS - time.monotonic()))
    span_s, after = time.monotonic() - began, beside.cpu_s()
    used, own = (after[0] - before[0]) / span_s, (after[1] - before[1]) / span_s
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


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p99 = ordered[int(len(ordered) * 0.99) - 1]
    return f"p50 {statistics.median(ordered) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, most {ordered[-1] * 1000:.0f} ms"


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
