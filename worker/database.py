"""Connections to Postgres, and what its errors mean to us."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg

from worker.config import DatabaseSettings
from worker.errors import ConfigError, DatabaseRefused, DatabaseUnreachable, SchemaMissing

APPLICATION_NAME = "caspen-sync"
CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 60.0

# Answers of a healthy server that a person has to mend: no use in asking again at once.
_REFUSALS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError)
# Everything else that goes wrong between us and Postgres may be better in a moment: a restart, a failover to a server
# that is read-only still, a full disk, a deadlock, too many connections. Faults of the data are not among them.
_PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that ended while it was idle, and a server that is not the primary
    OSError,
    TimeoutError,
)


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Turns what asyncpg raises into our own errors. What the data is to blame for passes, as asyncpg's error."""
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise DatabaseUnreachable(
            "database: somebody holds a lock that this needs; nothing was done, try again"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseRefused(
            f"database: Postgres refused: {_reason(error)}; migrate runs as the schema's owner (--roles besides needs "
            "CREATEROLE), everything else as a member of caspen_sync_worker"
        ) from error
    except _REFUSALS as error:
        raise DatabaseRefused(f"database: Postgres refused: {_reason(error)}") from error
    except _SCHEMA as error:
        raise SchemaMissing("database: the schema is missing or incomplete; run caspen-sync migrate") from error
    except asyncpg.DataError:
        raise
    except _PASSING as error:
        raise DatabaseUnreachable(f"database: cannot be reached: {_reason(error)}") from error


def connect_options(settings: DatabaseSettings) -> dict[str, Any]:
    """Arguments for asyncpg.connect and asyncpg.create_pool."""
    options: dict[str, Any] = {
        "dsn": settings.dsn.get_secret_value() or None,
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": STATEMENT_TIMEOUT_S,
    }
    if settings.pgbouncer:
        # Under transaction pooling each transaction may meet another server connection: no prepared statement lasts,
        # and no startup parameter but the common ones is let through.
        options |= {"statement_cache_size": 0, "server_settings": {"application_name": APPLICATION_NAME}}
    else:
        options["server_settings"] = {
            "application_name": APPLICATION_NAME,
            # Compiling or planning a claim takes longer than running it. One plan serves for as long as the connection
            # lasts, so it must not be the scan that was cheapest while a table was empty.
            "jit": "off",
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_bitmapscan": "off",
            # The claim counts on a lock that waits to see the row's newest version; a claim that was given out must
            # not be forgotten by a crash.
            "default_transaction_isolation": "read committed",
            "synchronous_commit": "on",
        }
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
            await conn.close(timeout=2.0)


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
            async with _within(2.0):
                await opened.close()
        except Exception:  # noqa: BLE001  it is closed either way
            opened.terminate()


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except DatabaseUnreachable as error:
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


def _reason(error: BaseException) -> str:
    if (getattr(error, "context", None) or "").startswith("PL/"):
        # A function or a trigger raised it, in words of its own, which may quote a body. Postgres's own words do not.
        return f"{type(error).__name__}, raised by a function of the database"
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {CONNECT_TIMEOUT_S:.0f} s"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
