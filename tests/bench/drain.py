"""One drain: a database full of changes, one process that works it off, and what it took.

The clock is the server's, and runs from the first request's arrival to the last appointment's. CPU time is read when
the first one arrives and, a second time, when everything is written back but the very last answer, which the server
keeps back until then. So no start counts, no imports and no connecting, and no ending, and of the work all does but the
first claim. The worker's memory is its peak, from its start to that moment.

Afterwards everything has to be there: each appointment arrived, with the right body, the process ended well, and the
database has every answer. What arrived twice is counted.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.bench import databases
from tests.bench.processes import Failed, ended, finish, start
from tests.bench.roster import Contestant
from tests.bench.serverprocess import ServerProcess
from tests.bench.usage import Usage, peak_mb
from tests.bench.work import CHANGES

LIMIT_S = 900
WRITE_BACK_S = 0.3
"""So long is the last answer kept back. PgQueuer writes its log of jobs ten times a second."""


@dataclass(frozen=True, slots=True)
class Drain:
    """What one drain took."""

    requests_per_s: float
    worker_cpu_s: float
    """For a thousand requests, as are the others."""
    postgres_cpu_s: float
    server_cpu_s: float
    server_busy: float
    """The share of the time in which it used a core."""
    others_cores: float
    """How many cores other work on the machine used meanwhile."""
    peak_mb: float
    twice: int
    """Requests beyond one for each appointment."""


async def drain(
    contestant: Contestant, *, dsn: str, postmaster_pid: int, server: ServerProcess, appointments: int
) -> Drain:
    """Raises Failed when anything is missing at the end."""
    numbers = range(databases.WARM_UP.stop, databases.WARM_UP.stop + appointments)
    async with databases.fresh_copy(dsn, contestant, "bench_run", numbers) as copy:
        given = contestant.given(copy, server.base_url, numbers)
        await server.count()  # what it told of an earlier run is over
        server.expect(numbers)
        process = await start(contestant.module, *contestant.once, variables=contestant.variables(given))
        async with ended(process):
            ending = asyncio.ensure_future(finish(process))
            try:
                async with asyncio.timeout(LIMIT_S):
                    first_at = await _told(server, "first", ending)
                    before = Usage.now(process.pid, postmaster_pid, server.pid)
                    last_at = await _told(server, "last", ending)
                    await asyncio.sleep(WRITE_BACK_S)
                    used = Usage.now(process.pid, postmaster_pid, server.pid).since(before)
                    peak = peak_mb(process.pid)
                    server.answer()
                    await ending
            except TimeoutError:
                raise Failed(f"not done after {LIMIT_S} s") from None
            finally:
                ending.cancel()
        twice = await _checked(contestant, copy, server, numbers.stop)
    seconds, thousands = last_at - first_at, appointments / 1000
    return Drain(
        requests_per_s=appointments / seconds,
        worker_cpu_s=used.worker_s / thousands,
        postgres_cpu_s=used.postgres_s / thousands,
        server_cpu_s=used.server_s / thousands,
        server_busy=used.server_s / seconds,
        others_cores=used.others_s / (seconds + WRITE_BACK_S),
        peak_mb=peak,
        twice=twice,
    )


async def _told(server: ServerProcess, what: str, ending: asyncio.Future[str]) -> float:
    """When it was, by the server's clock. Raises Failed when the process ends without it."""
    telling = asyncio.ensure_future(server.told())
    waited: set[asyncio.Future[Any]] = {telling, ending}
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if not telling.done():
        await asyncio.wait({telling}, timeout=1.0)  # it may be on its way
    if telling.done():
        return float(telling.result()[what])
    telling.cancel()
    await ending
    raise Failed(f"ended without its {what} request")


async def _checked(contestant: Contestant, dsn: str, server: ServerProcess, written: int) -> int:
    """How many requests there were too many. `written`: how many answers should be there. Raises Failed for less."""
    told = await server.count()
    if told["missing"] or told["strange"]:
        raise Failed(f"{told['missing']} appointments never arrived, {told['strange']} requests were something else")
    if json.loads(told["body"]) != CHANGES:
        raise Failed("it sent another body")
    done = await databases.done(dsn, contestant)
    if done is not None and done != written:
        raise Failed(f"{written - done} answers are not written back")
    return int(told["twice"])
