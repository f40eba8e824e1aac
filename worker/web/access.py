"""The pages' way to the database: a few connections of the pool at once, so that the work never waits for a page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg

from worker.database import CONNECT_TIMEOUT_S, understood
from worker.errors import DatabaseUnreachable

AT_ONCE = 2
# A page waits no longer for its turn, in seconds.
TURN_S = 5.0


class Access:
    """Hands out connections."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._turns = asyncio.Semaphore(AT_ONCE)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """One of them. Raises DatabaseUnreachable or DatabaseRefused."""
        try:
            async with asyncio.timeout(TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            raise DatabaseUnreachable("database: other pages are using it; look again in a moment") from None
        try:
            with understood():
                async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as conn:
                    yield conn
        finally:
            self._turns.release()
