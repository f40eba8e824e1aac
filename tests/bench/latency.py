"""How soon a change that is written to an idle worker arrives at the API.

All contestants run as services at once, each on a database of its own, so that what they have in common is the same for
all; one change is written at a time, to one of them, and the next one when everybody is idle again. The clock starts
when the transaction is about to commit, so that the commit itself and the notification count and the writing does not;
the server stops it when the request arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping

import asyncpg

from tests.bench import databases
from tests.bench.processes import Failed, ended, finish, start
from tests.bench.roster import Contestant
from tests.bench.serverprocess import ServerProcess
from tests.bench.work import BODY, appointment_id

REST_S = 0.1
"""Between two changes: by then the answer is written back."""
_WARM_UP = 20
_LOST_S = 2.0
_LIMIT_S = 30.0


class Idle:
    """Services that wait, and the server that they will speak to."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._numbers: Iterator[int] = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[float]] = {}
        self._conns: dict[str, asyncpg.Connection] = {}

    @property
    def names(self) -> list[str]:
        """The services that work."""
        return list(self._conns)

    async def add(
        self, contestant: Contestant, dsn: str, conn: asyncpg.Connection, stack: contextlib.AsyncExitStack
    ) -> None:
        """Starts a service, and returns when it has been woken a few times. Raises Failed."""
        given = contestant.given(dsn, self._server.base_url)
        process = await start(contestant.module, *contestant.serve, variables=contestant.variables(given))
        await stack.enter_async_context(ended(process))
        ending = asyncio.ensure_future(finish(process))
        stack.callback(ending.cancel)
        warming = asyncio.ensure_future(self._warm(contestant, conn))
        await asyncio.wait({ending, warming}, timeout=_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        warming.cancel()
        if ending.done():
            await ending
            raise Failed("ended as a service")
        try:
            await warming
        except (TimeoutError, asyncio.CancelledError):
            raise Failed(f"did not send its first changes within {_LIMIT_S:.0f} s") from None
        self._conns[contestant.name] = conn

    async def _warm(self, contestant: Contestant, conn: asyncpg.Connection) -> None:
        """Until it listens, a notification is lost: changes are written until one arrives."""
        while True:
            with contextlib.suppress(TimeoutError):
                await self._once(contestant, conn, limit_s=_LOST_S)
                break
        for _ in range(_WARM_UP):
            await self._once(contestant, conn, limit_s=_LIMIT_S)

    async def seconds(self, contestant: Contestant, changes: int) -> list[float]:
        """From commit to request, for so many changes one after the other. Raises Failed."""
        conn = self._conns[contestant.name]
        try:
            return [await self._once(contestant, conn, limit_s=_LIMIT_S) for _ in range(changes)]
        except TimeoutError:
            raise Failed(f"a change was not sent within {_LIMIT_S:.0f} s") from None

    async def _once(self, contestant: Contestant, conn: asyncpg.Connection, *, limit_s: float) -> float:
        number = next(self._numbers)
        arrival = self._waiting[number] = asyncio.get_running_loop().create_future()
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute(contestant.write, [appointment_id(number)], BODY)
        began = time.monotonic()
        await transaction.commit()
        async with asyncio.timeout(limit_s):
            arrived = await arrival
        await asyncio.sleep(REST_S)
        return arrived - began

    async def hear(self) -> None:
        """Hears what arrives, until cancelled."""
        while True:
            told = await self._server.told()
            waiting = self._waiting.pop(told.get("arrived", 0), None)
            if waiting and not waiting.done():
                waiting.set_result(told["at"])


@contextlib.asynccontextmanager
async def idle(
    contestants: Mapping[str, Contestant], *, dsn: str, server: ServerProcess, failed: dict[str, str]
) -> AsyncIterator[Idle]:
    """All that can be started; why the others cannot is written into `failed`."""
    services = Idle(server)
    server.watch()
    hearing = asyncio.ensure_future(services.hear())
    try:
        async with contextlib.AsyncExitStack() as stack:
            for contestant in contestants.values():
                name = f"bench_idle_{contestant.name}"
                copy = await stack.enter_async_context(databases.fresh_copy(dsn, contestant, name, range(0)))
                conn = await stack.enter_async_context(databases.connected(copy))
                try:
                    await services.add(contestant, copy, conn, stack)
                except Failed as error:
                    failed[contestant.name] = str(error)
            yield services
    finally:
        hearing.cancel()
