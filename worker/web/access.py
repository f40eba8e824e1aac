"""The pages' way to the database: one connection of the pool, which they take in turns, so that the work never waits
for a page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg

from worker.database import CONNECT_TIMEOUT_S, understood
from worker.errors import DatabaseUnreachable

# asyncpg takes as long to give a connection back, at the most, as one was ready to wait for it: a statement that was
# given up is called off first. Pages wait for nobody else's, so that there is no need to wait for long.
CLEARED_IN_S = 3.0


class Access:
    """Hands it out. Stands in for the pool where something is read."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def acquire(self, *, timeout: float = CONNECT_TIMEOUT_S) -> AsyncIterator[asyncpg.Connection]:  # noqa: ASYNC109  as the pool's
        """The connection, after at most `timeout` seconds. Raises DatabaseUnreachable or DatabaseRefused."""
        try:
            async with asyncio.timeout(timeout):
                await self._turn.acquire()
        except TimeoutError:
            raise DatabaseUnreachable("database: other pages are using it; look again in a moment") from None
        try:
            with understood():
                async with self._pool.acquire(timeout=min(timeout, CLEARED_IN_S)) as conn:
                    yield conn
        finally:
            self._turn.release()
