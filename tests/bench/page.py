"""What people who look at the page cost beside a large backlog: `python -m tests.bench.page [ROWS [SECONDS]]`.

The account is paused, so that nothing else is done. Each round has every number of viewers in turn, nobody among them:
what is told is how much more than with nobody.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass

import aiohttp
import asyncpg

from tests.bench.backlog import Beside, backlog

ROUNDS = 3
SECONDS = 60.0
VIEWERS = (0, 1, 10)
# What viewers may cost together, in cores.
PROMISED = 0.02
PARKED, REASONS, ATTEMPTS = 100_000, 20, 3_600
# Until all who came are told how it is, and until nothing is done any more for those who went.
SETTLING_S = 2.0

_PARK = """
    WITH written AS (
        INSERT INTO caspen_sync.outbox (appointment_id, changes)
        SELECT 'parked_' || i, '{"note": null}' FROM generate_series(1, $1::int) AS i RETURNING id
    )
    SELECT min(id) FROM written
"""
_PARKED = """
    WITH parked AS (
        UPDATE caspen_sync.outbox SET state = 'parked', attempts = 1, finished_at = clock_timestamp(),
            last_error = '422 validation failed: field_' || id % $2
        WHERE account = 'default' AND id >= $1 RETURNING account, appointment_id, id
    ), gone AS (
        DELETE FROM caspen_sync.arrival x USING parked p WHERE x.account = p.account AND x.change_id = p.id
    )
    INSERT INTO caspen_sync.queue (account, appointment_id, lane, due_at, newest_id)
    SELECT account, appointment_id, 'live', 'infinity', id FROM parked
"""
_ATTEMPTS = """
    INSERT INTO caspen_sync.attempt
        (account, appointment_id, change_ids, started_at, duration_ms, http_status, outcome, worker)
    SELECT 'default', 'sent_' || i, ARRAY[i], now() - make_interval(secs => i::float8 * 3600 / $1), 80, 200,
           CASE WHEN i % 50 = 0 THEN 'retry' ELSE 'synced' END, 'bench'
    FROM generate_series(1, $1::int) AS i
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """In cores."""

    postgres: float
    service: float

    @property
    def both(self) -> float:
        return self.postgres + self.service


async def main(rows: int, seconds: float) -> None:
    async with backlog(rows, _what_a_busy_account_has) as beside:
        costs: dict[int, list[Cost]] = defaultdict(list)
        for _ in range(ROUNDS):
            for viewers in VIEWERS:
                cost, events, size = await _measure(beside, viewers, seconds)
                costs[viewers].append(cost)
                told = f", {events:,} events, {size / max(1, events):,.0f} bytes each" if viewers else ""
                print(f"{viewers:>2} viewers: {_said(cost)}{told}", flush=True)
    median = {viewers: _median(found) for viewers, found in costs.items()}
    print(f"\n{rows:,} pending, {PARKED:,} parked, {ATTEMPTS:,} requests in the last hour; medians of {ROUNDS} rounds")
    for viewers in VIEWERS:
        cost = median[viewers]
        more = Cost(cost.postgres - median[0].postgres, cost.service - median[0].service)
        print(f"{viewers:>2} viewers: {_said(cost)}" + (f"; more than nobody: {_said(more)}" if viewers else ""))
    together = median[VIEWERS[-1]].both - median[0].both
    print(f"{VIEWERS[-1]} viewers cost {together:.2%} of a core; promised: {PROMISED:.0%} at the most")


async def _measure(beside: Beside, viewers: int, seconds: float) -> tuple[Cost, int, int]:
    """What was used meanwhile, how many events the viewers were sent, and of how many bytes all together."""
    seen = [0, 0]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        watching = [asyncio.create_task(_watch(session, beside.address, seen)) for _ in range(viewers)]
        await asyncio.sleep(SETTLING_S)
        before, began, events, size = beside.cpu_s(), time.monotonic(), *seen
        await asyncio.sleep(seconds)
        after, took_s = beside.cpu_s(), time.monotonic() - began
        told = seen[0] - events, seen[1] - size
        for task in watching:
            task.cancel()
        ended = await asyncio.gather(*watching, return_exceptions=True)
    for one in ended:
        assert isinstance(one, asyncio.CancelledError), one
    await asyncio.sleep(SETTLING_S)
    return Cost((after[0] - before[0]) / took_s, (after[1] - before[1]) / took_s), *told


async def _watch(session: aiohttp.ClientSession, address: str, seen: list[int]) -> None:
    """As a browser does: reads as it comes, and comes back when the stream has ended."""
    while True:
        timeout = aiohttp.ClientTimeout(total=None)
        async with session.get(
            f"http://{address}/live", headers={"Accept": "text/event-stream"}, timeout=timeout
        ) as answer:
            answer.raise_for_status()
            async for chunk in answer.content.iter_any():
                seen[0] += chunk.count(b"data: ")
                seen[1] += len(chunk)


async def _what_a_busy_account_has(conn: asyncpg.Connection) -> None:
    first = await conn.fetchval(_PARK, PARKED, timeout=600)
    await conn.execute(_PARKED, first, REASONS, timeout=600)
    await conn.execute(_ATTEMPTS, ATTEMPTS, timeout=600)


def _median(costs: list[Cost]) -> Cost:
    return Cost(statistics.median(one.postgres for one in costs), statistics.median(one.service for one in costs))


def _said(cost: Cost) -> str:
    return f"Postgres {cost.postgres:6.2%} of a core, the service {cost.service:6.2%}"


if __name__ == "__main__":
    given = [float(one) for one in sys.argv[1:]]
    asyncio.run(main(int(given[0]) if given else 1_000_000, given[1] if len(given) > 1 else SECONDS))
