"""The settings that our statements count on, and a connection that carries them through a PgBouncer.

A direct connection sets them once, when it starts. Under PgBouncer's transaction pooling there is no session to set
them for: each transaction may meet another server connection, and what one client sets there the next one finds. So
every statement runs in a transaction, and each transaction begins with the settings, which end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import asyncpg

# How long Postgres waits in the middle of a transaction for a worker that vanished, and keeps its locks.
VANISHED_MS = 15_000

SETTINGS = {
    # Compiling or planning a claim takes longer than running it. One plan serves for as long as the connection lasts,
    # so it must not be the scan that was cheapest while a table was empty.
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    # A claim that was given out must not be forgotten by a crash.
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": str(VANISHED_MS),
    # Whoever may create functions in public could else put one in the way of our statements, which would run with our
    # rights: unnest(text[]) there is a better match than Postgres's own, which takes any array.
    # https://wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058
    "search_path": "pg_catalog",
}
# The claim counts on a lock that waits to see the row's newest version.
ISOLATION = "read committed"

# One message, so that the settings cost no round trip.
_BEGIN = f"BEGIN ISOLATION LEVEL {ISOLATION}" + "".join(f"; SET LOCAL {name} = '{to}'" for name, to in SETTINGS.items())
# Seconds. A rollback that takes longer is left to PgBouncer and Postgres: both do it when the connection ends.
_ROLLBACK_S = 2.0


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg is not typed
    """asyncpg's, which says so when it is lost: between preparing a statement and running it, asyncpg's own raises an
    AttributeError."""

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncpg's."""
        with self._told_when_lost():
            return await super().fetch(*args, **kwargs)

    async def fetchrow(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncpg's."""
        with self._told_when_lost():
            return await super().fetchrow(*args, **kwargs)

    async def fetchval(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncpg's."""
        with self._told_when_lost():
            return await super().fetchval(*args, **kwargs)

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncpg's."""
        with self._told_when_lost():
            return await super().execute(*args, **kwargs)

    @contextlib.contextmanager
    def _told_when_lost(self) -> Iterator[None]:
        try:
            yield
        except AttributeError as error:
            if not self.is_closed():
                raise
            raise asyncpg.ConnectionDoesNotExistError("the connection was lost in the middle of a statement") from error


class DirectConnection(_Connection):
    """A connection to Postgres itself."""

    def get_reset_query(self) -> str:
        """Nothing, which saves a round trip after each statement: none of ours leaves anything in the session."""
        return ""


class PooledConnection(_Connection):
    """A connection to a PgBouncer. Each statement is a transaction of its own, unless one is open."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # When it looks a type up (it does so for arrays), asyncpg switches jit off around that, for the whole session.
        self._server_caps: Any = self._server_caps._replace(jit=False)

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncpg's, in a transaction. `timeout`: for its beginning, too, which waits for a server connection."""
        async with self._in_a_transaction(kwargs.get("timeout")):
            return await super().fetch(*args, **kwargs)

    async def fetchrow(self, *args: Any, **kwargs: Any) -> Any:
        """As `fetch`."""
        async with self._in_a_transaction(kwargs.get("timeout")):
            return await super().fetchrow(*args, **kwargs)

    async def fetchval(self, *args: Any, **kwargs: Any) -> Any:
        """As `fetch`."""
        async with self._in_a_transaction(kwargs.get("timeout")):
            return await super().fetchval(*args, **kwargs)

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As `fetch`."""
        async with self._in_a_transaction(kwargs.get("timeout")):
            return await super().execute(*args, **kwargs)

    @contextlib.asynccontextmanager
    async def transaction(self, *, begin_timeout: float | None = None) -> AsyncIterator[None]:
        """A transaction with our settings and isolation; not to be nested. After an error nothing of it is left open:
        a connection that gives no answer is ended. Raises what asyncpg raises."""
        try:
            await super().execute(_BEGIN, timeout=begin_timeout)
            yield
            await super().execute("COMMIT")
        except BaseException as error:
            await self._abandon(error)
            raise

    def get_settings(self) -> Any:
        """None, so that the server itself is asked whether it is a standby. PgBouncer tells every client what its first
        server connection said, and after a failover goes on telling it."""
        return SimpleNamespace()

    def get_reset_query(self) -> str:
        """Nothing: on its way back to the pool a connection has nothing left, and the next one to hear a reset may be
        somebody else's server connection."""
        return ""

    def _in_a_transaction(self, timeout: float | None) -> contextlib.AbstractAsyncContextManager[None]:
        inside = not self.is_closed() and self.is_in_transaction()
        return contextlib.nullcontext() if inside else self.transaction(begin_timeout=timeout)

    async def _abandon(self, error: BaseException) -> None:
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            # PgBouncer leads to a standby by now, and keeps this connection. A new one goes to the primary, where
            # database.dsn names several hosts.
            self.terminate()
        if self.is_closed():
            return
        try:
            async with asyncio.timeout(_ROLLBACK_S):
                await super().execute("ROLLBACK")
        except Exception:  # noqa: BLE001  the error that led here is the one to tell
            self.terminate()
        except asyncio.CancelledError:
            self.terminate()
            raise
