"""The pages' way to the database: one connection of the pool, which they take in turns, so that the work never waits
for a page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg

from worker.database import CONNECT_TIMEOUT_S, understood
from worker.errors import DatabaseUnreachable


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
                async with self._pool.acquire(timeout=timeout) as conn:
                    yield conn
        finally:
            self._turn.release()
