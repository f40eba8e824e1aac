"""A query as the source: a row for each change, out of our database or another one.

It runs on a plain connection of its own (a worker's planner settings would ruin it), in a transaction that can write
nothing, through a cursor. Postgres's words are passed on only where they cannot quote a value.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any

import asyncpg

from worker.backfill.columns import Columns
from worker.backfill.inspection import Inspector
from worker.backfill.rows import Batch, Reject, Row
from worker.database import APPLICATION_NAME, CLOSE_S, CONNECT_TIMEOUT_S
from worker.errors import DatabaseUnreachable, SourceError, UsageError

# Fetched at once.
BATCH_ROWS = 2_000

# Errors whose text is about the rights or the server; and, while no row was looked at, about the query. That of others
# may quote a value: what a cast stumbled over, or what a function found worth saying.
_DISCREET = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidTransactionStateError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)
Kinds = tuple[type[Any], ...]
_AWAY = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class QuerySource:
    """The rows of a SELECT."""

    size = None
    # As which its rejects are written.
    suffix = "jsonl"
    encoding = "utf-8"
    header = b""

    def __init__(self, name: str, sql: str, dsn: str, inspector: Inspector, *, label: str) -> None:
        """`dsn`: empty for what libpq's variables say. `label`: the option that the query came by."""
        self.name = name
        self._sql = sql
        self._dsn = dsn
        self._inspector = inspector
        self._label = label

    async def batches(self) -> AsyncIterator[Batch]:
        """The rows, some thousand at a time. Raises SourceError, UsageError or DatabaseUnreachable."""
        with self._understood():
            conn = await self._connected()
        try:
            async with contextlib.aclosing(self._batches(conn)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            with contextlib.suppress(Exception):
                await conn.close(timeout=CLOSE_S)

    async def _batches(self, conn: asyncpg.Connection) -> AsyncGenerator[Batch]:
        with self._understood():
            await conn.execute("BEGIN READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0")
        with self._understood(discreet=(*_DISCREET, asyncpg.SyntaxOrAccessError)):
            statement = await conn.prepare(self._sql)
        if statement.get_parameters():
            raise SourceError(f"{self._label}: takes parameters, such as $1, and nobody gives them")
        columns = Columns([attribute.name for attribute in statement.get_attributes()], self._label)
        with self._understood():
            cursor = await statement.cursor()
        read = 0
        while True:
            with self._understood(f" after row {read}"):
                records = await cursor.fetch(BATCH_ROWS)
            if not records:
                return
            yield await asyncio.to_thread(self._batch, columns, records, read)
            read += len(records)

    def _batch(self, columns: Columns, records: Sequence[Any], read: int) -> Batch:
        found = [columns.inspected(number, record, self._inspector) for number, record in enumerate(records, read + 1)]
        return Batch(
            rows=tuple(one for one in found if isinstance(one, Row)),
            rejects=tuple(one for one in found if isinstance(one, Reject)),
            read=read + len(records),
        )

    async def _connected(self) -> asyncpg.Connection:
        try:
            return await asyncpg.connect(
                self._dsn or None,
                timeout=CONNECT_TIMEOUT_S,
                # A PgBouncer may be in between.
                statement_cache_size=0,
                server_settings={"application_name": APPLICATION_NAME},
            )
        except (asyncpg.exceptions.ClientConfigurationError, ValueError):
            # Its message may quote the DSN, and with it a password.
            raise UsageError("--query-dsn: is not a Postgres URI such as postgresql://user@host/clinic") from None

    @contextlib.contextmanager
    def _understood(self, at: str = "", discreet: Kinds = _DISCREET) -> Iterator[None]:
        try:
            yield
        except asyncpg.PostgresConnectionError as error:
            raise DatabaseUnreachable(
                f"{self._label}: its database cannot be reached{at}: {_words(error, discreet)}"
            ) from None
        except asyncpg.PostgresError as error:
            raise SourceError(f"{self._label}: Postgres refused it{at}: {_words(error, discreet)}") from None
        except _AWAY as error:
            raise DatabaseUnreachable(
                f"{self._label}: its database cannot be reached{at}: {_words(error, discreet)}"
            ) from None
        except (ValueError, ArithmeticError):  # such as a time before Christ
            raise SourceError(f"{self._label}: a value{at} is none that Python has; cast its column to text") from None


def _words(error: BaseException, discreet: Kinds) -> str:
    if isinstance(error, asyncpg.PostgresError) and not _is_discreet(error, discreet):
        return f"{type(error).__name__} (SQLSTATE {error.sqlstate}); psql says more"
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    position = getattr(error, "position", None)
    return f"{words} (at character {position})" if position else words


def _is_discreet(error: asyncpg.PostgresError, discreet: Kinds) -> bool:
    # What a function raised is in words of its own, whatever the code.
    return isinstance(error, discreet) and not (error.context or "").startswith("PL/")
