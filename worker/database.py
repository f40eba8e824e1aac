"""Connections to Postgres, and what its errors mean to us."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg

from worker.config import DatabaseSettings
from worker.errors import ConfigError, DatabaseRefused, DatabaseUnreachable, SchemaMissing
from worker.session import ISOLATION, SETTINGS, DirectConnection, PooledConnection

APPLICATION_NAME = "caspen-sync"
CONNECT_TIMEOUT_S = 10.0
# How long a good-bye may take. With --max-runtime it comes on top.
CLOSE_S = 0.5
# When a connection goes dark, this is how late it is found out: early enough that after the slowest answer a claim of
# 2.5 request timeouts still holds when its outcome is written over another connection.
STATEMENT_TIMEOUT_S = 20.0

# Answers of a healthy server that a person has to mend: no use in asking again at once.
_REFUSALS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
# Not the schema that our statements were written for. Were it blamed on an answer, accepted changes would park.
_SCHEMA = (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError)
# What comes of prepared statements where each transaction meets another server connection. Before _SCHEMA, of which one
# is a kind.
_LOST_STATEMENT = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
_READ_ONLY = (asyncpg.ReadOnlySQLTransactionError, asyncpg.TargetServerAttributeNotMatched)
# Nobody answers, or the connection is gone: also one that ended while it was idle.
_AWAY = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
# Postgres answers that it cannot, and may be able to in a moment: a restart, a full disk, a deadlock, too many
# connections, somebody's time limit, a statement that a migration made stale. Faults of the data are not among them.
_PASSING = (
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.InvalidTransactionStateError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.exceptions.InvalidCachedStatementError,
)


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Turns what asyncpg raises into our own errors. What the data is to blame for passes, as asyncpg's error."""
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise DatabaseUnreachable(
            "database: somebody holds a lock that this needs; it was not done, try again"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseRefused(
            f"database: Postgres refused: {_reason(error)}; migrate runs as the schema's owner (--roles besides needs "
            "CREATEROLE), everything else as a member of caspen_sync_worker"
        ) from error
    except _REFUSALS as error:
        raise DatabaseRefused(f"database: Postgres refused: {_reason(error)}") from error
    except _LOST_STATEMENT as error:
        raise _pgbouncer_unawares(error) from error
    except _SCHEMA as error:
        raise _other_schema(error) from error
    except _READ_ONLY as error:
        raise DatabaseUnreachable(
            "database: the server is read-only: a standby, or default_transaction_read_only is on; is it to be "
            "promoted, or does database.dsn lead to the wrong one?"
        ) from error
    except asyncpg.DataError:
        raise
    except _PASSING as error:
        raise DatabaseUnreachable(f"database: Postgres cannot do this now: {_reason(error)}") from error
    except _AWAY as error:
        raise _away(error) from error


def connect_options(settings: DatabaseSettings) -> dict[str, Any]:
    """Arguments for asyncpg.connect and asyncpg.create_pool."""
    options: dict[str, Any] = {
        "dsn": settings.dsn.get_secret_value() or None,
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": STATEMENT_TIMEOUT_S,
        # Of several hosts the primary, and never a standby, whose answers are old and which takes no claim.
        "target_session_attrs": "read-write",
        "server_settings": {"application_name": APPLICATION_NAME},
    }
    if settings.pgbouncer:
        # No prepared statement lasts, and no startup parameter but the common ones is let through.
        options |= {"statement_cache_size": 0, "connection_class": PooledConnection}
    else:
        options["server_settings"] |= SETTINGS | {"default_transaction_isolation": ISOLATION}
        options["connection_class"] = DirectConnection
    return options


@contextlib.asynccontextmanager
async def connection(settings: DatabaseSettings) -> AsyncIterator[asyncpg.Connection]:
    """One connection outside the pool. Raises DatabaseUnreachable, DatabaseRefused or ConfigError."""
    with _reaching(), understood(), _readable_dsn():
        conn = await asyncpg.connect(**connect_options(settings))
    try:
        yield conn
    finally:
        with contextlib.suppress(Exception):
            await conn.close(timeout=CLOSE_S)


@contextlib.asynccontextmanager
async def pool(settings: DatabaseSettings, *, max_size: int) -> AsyncIterator[asyncpg.Pool]:
    """A pool of at most `max_size` connections. Raises as `connection` does."""
    with _reaching(), understood(), _readable_dsn():
        # No connection is kept ready: asyncpg would try to keep it in the background, and fail there during an outage.
        opened = await asyncpg.create_pool(min_size=0, max_size=max_size, **connect_options(settings))
        async with opened.acquire():
            pass
    try:
        yield opened
    finally:
        try:
            async with _within(CLOSE_S):
                await opened.close()
        except Exception:  # noqa: BLE001  it is closed either way
            opened.terminate()


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except DatabaseUnreachable as error:
        if not isinstance(error.__cause__, _AWAY) or isinstance(error.__cause__, _READ_ONLY):
            raise
        raise DatabaseUnreachable(
            f"{error}; does Postgres run there, and is database.dsn (or PGHOST and PGPORT) right?"
        ) from error.__cause__


@contextlib.asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    async with asyncio.timeout(seconds):
        yield


@contextlib.contextmanager
def _readable_dsn() -> Iterator[None]:
    try:
        yield
    except (asyncpg.exceptions.ClientConfigurationError, ValueError):
        # Its message may quote the DSN, and with it a password.
        raise ConfigError(
            "database.dsn: is no Postgres URI such as postgresql://user@host/clinic (and libpq's PG* variables, "
            "where they fill in, make none either)"
        ) from None


def _away(error: BaseException) -> DatabaseUnreachable | DatabaseRefused:
    if isinstance(error, asyncpg.ProtocolViolationError) and "startup parameter" in str(error):
        return _pgbouncer_unawares(error)
    return DatabaseUnreachable(f"database: cannot be reached: {_reason(error)}")


def _other_schema(error: BaseException) -> SchemaMissing:
    if _of_a_function(error):
        return SchemaMissing(
            f"database: {_reason(error)}; does a trigger of your own name the schema of what it uses? Where a worker's "
            "writes fire it, search_path is pg_catalog"
        )
    return SchemaMissing(f"database: the schema is missing or incomplete: {_reason(error)}; run caspen-sync migrate")


def _pgbouncer_unawares(error: BaseException) -> DatabaseRefused:
    return DatabaseRefused(
        f"database: a PgBouncer is in between: {_reason(error)}; set database.pgbouncer = true, and have no parameters "
        "of your own in database.dsn (migrate needs the server's own address)"
    )


def _of_a_function(error: BaseException) -> bool:
    return (getattr(error, "context", None) or "").startswith("PL/")


def _reason(error: BaseException) -> str:
    if _of_a_function(error):
        # A function or a trigger raised it, in words of its own, which may quote a body. Postgres's own words do not.
        return f"{type(error).__name__}, raised by a function of the database"
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
