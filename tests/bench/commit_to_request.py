"""How soon a change that is written to an idle service arrives at the API, beside a bare asyncpg LISTEN plus aiohttp
POST in the same run: `python -m tests.bench.commit_to_request`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import asyncpg

from tests.support.rawserver import Request, answer, raw_server
from worker.embedded import embedded_postgres
from worker.migrate import migrate

ROUNDS = 5
CHANGES = 50
RESOURCE = b'{"id": "app_1", "status": "pending"}'
SETTINGS = {
    "ACCOUNTS__DEFAULT__TOKEN": "unused",
    "ACCOUNTS__DEFAULT__RATE_LIMIT": "200",
    "ACCOUNTS__DEFAULT__RATE_WINDOW_S": "1",
    "WORKER__POLL_S": "60",
    "LOG__LEVEL": "warning",
    "HTTP__LISTEN": "",
}

# What an afternoon would write: no claim, no budget, no lease, no retry, no answer kept.
BARE = """
import asyncio, sys, aiohttp, asyncpg
async def main(dsn, base_url):
    conn = await asyncpg.connect(dsn)
    async with aiohttp.ClientSession() as session:
        ids = asyncio.Queue()
        await conn.add_listener("bare", lambda *args: ids.put_nowait(args[-1]))
        while True:
            async with session.post(f"{base_url}/appointments/{await ids.get()}", json={"note": "x"}) as response:
                await response.read()
asyncio.run(main(*sys.argv[1:]))
"""


async def main() -> None:
    with embedded_postgres() as dsn:
        conn = await asyncpg.connect(dsn)
        await migrate(conn)
        await conn.execute("CREATE TABLE bare (id text)")
        arrived: dict[str, asyncio.Future[float]] = {}

        async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
            now = time.perf_counter()
            waiting = arrived.get(request.path.rsplit("/", 1)[1])
            if waiting and not waiting.done():
                waiting.set_result(now)
            writer.write(answer("200 OK", RESOURCE))
            await writer.drain()

        async def worker(name: str) -> None:
            await conn.execute(
                'INSERT INTO caspen_sync.outbox (appointment_id, changes) VALUES ($1, \'{"note": "x"}\')', name
            )

        async def bare(name: str) -> None:
            await conn.execute("WITH w AS (INSERT INTO bare VALUES ($1)) SELECT pg_notify('bare', $1)", name)

        async def measure(kind: str, write: Callable[[str], Awaitable[None]], count: int) -> list[float]:
            seconds = []
            for number in range(count):
                name = f"{kind}_{time.perf_counter_ns()}_{number}"
                arrival = arrived[name] = asyncio.get_running_loop().create_future()
                began = time.perf_counter()
                await write(name)
                seconds.append(await arrival - began)
                await asyncio.sleep(0.1)  # the write-back is over, and nobody is busy
            return seconds

        async with raw_server(respond) as server, _both(dsn, server.base_url):
            for kind, write in (("worker", worker), ("bare", bare)):
                async with asyncio.timeout(30):
                    await _warm(kind, write, measure)
            ours: list[list[float]] = []
            theirs: list[list[float]] = []
            for _ in range(ROUNDS):
                ours.append(await measure("worker", worker, CHANGES))
                theirs.append(await measure("bare", bare, CHANGES))
        await conn.close()
    p50, p99 = ([_ms(rounds, share) for rounds in (ours, theirs)] for share in (0.5, 0.99))
    for row, name in enumerate(("caspen-sync run", "LISTEN and POST")):
        print(f"{name:<16} p50 {p50[row]:5.2f} ms   p99 {p99[row]:5.2f} ms")
    print(f"{'ratio':<16} p50 {p50[0] / p50[1]:5.2f}      p99 {p99[0] / p99[1]:5.2f}")


async def _warm(
    kind: str,
    write: Callable[[str], Awaitable[None]],
    measure: Callable[[str, Callable[[str], Awaitable[None]], int], Awaitable[list[float]]],
) -> None:
    """Until it listens, a notification is lost: the first changes are written until one arrives."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await measure(kind, write, 1)
                break
    await measure(kind, write, 20)


@contextlib.asynccontextmanager
async def _both(dsn: str, base_url: str) -> AsyncIterator[None]:
    """Both run all the time, so that what they have in common is the same for both."""
    env = os.environ | {f"CASPEN_SYNC_{name}": value for name, value in SETTINGS.items()}
    env |= {"CASPEN_SYNC_DATABASE__DSN": dsn, "CASPEN_SYNC_API__BASE_URL": base_url}
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-m", "worker", "run", env=env),
        await asyncio.create_subprocess_exec(sys.executable, "-c", BARE, dsn, base_url),
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            await process.wait()


def _ms(rounds: Sequence[Sequence[float]], share: float) -> float:
    """The median over the rounds of this percentile, in milliseconds."""
    return statistics.median(sorted(r)[min(len(r) - 1, int(len(r) * share))] for r in rounds) * 1000


if __name__ == "__main__":
    asyncio.run(main())
