"""LISTEN: hears of committed changes at once. When its connection dies it listens again, and says so; polling goes on
beneath in any case."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from worker import clock
from worker.config import DatabaseSettings
from worker.database import connection, understood
from worker.errors import DATABASE_FAULTS
from worker.telemetry import Log

CHANNEL = "caspen_sync"
# A connection that a firewall dropped silently is found out this late, in seconds.
CHECK_S = 30.0
# One that ended after less than this is made again only after as long.
SOON_S = 5.0


async def listen(settings: DatabaseSettings, wake: Callable[[str], None], *, log: Log) -> None:
    """Calls `wake` for each notification, until cancelled, with the account that it names; "" means any."""

    def complain(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("listen_lost", error=str(error))

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(DATABASE_FAULTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        before_sleep=complain,
    )
    while True:
        began_at = clock.now()
        await retrying(_listen_until_lost, settings, wake, log)
        log.warning("listen_lost", error="the connection ended")
        # Where the server ends every idle session after a second, LISTEN is of no use.
        await asyncio.sleep(0 if clock.now() - began_at > SOON_S else SOON_S)


async def _listen_until_lost(settings: DatabaseSettings, wake: Callable[[str], None], log: Log) -> None:
    async with connection(settings) as conn:
        lost = asyncio.Event()
        conn.add_termination_listener(lambda *_: lost.set())
        with understood():
            await conn.add_listener(CHANNEL, lambda *told: wake(told[-1]))
        log.debug("listening")
        wake("")  # whatever was committed while nobody listened
        while not lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):
                    await lost.wait()
            if not lost.is_set():
                try:
                    await conn.execute("SELECT 1", timeout=CHECK_S)
                except Exception:  # noqa: BLE001  whatever it is, the connection is of no use
                    return
