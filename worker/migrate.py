"""Brings the schema up to date: numbered files of plain SQL, each applied once, in a transaction of its own.

Safe to run twice and from several hosts at once: the second waits for the first. A schema that is newer than this
program is left alone and refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from worker.database import understood
from worker.errors import DatabaseRefused, SchemaMissing, SchemaTooNew
from worker.privacy import say
from worker.sqlfiles import query, roles, sql_dir

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")

# Any number, as long as nobody else locks it: the bytes of "caspen".
_ADVISORY_LOCK = int.from_bytes(b"caspen", "big")

# No migration waits long for a lock on the outbox, since writers that come next wait behind it. It lets them go on, and
# tries again for as long.
_LOCK_TIMEOUT = "SET lock_timeout = '1s'"
BUSY_OUTBOX_S = 120
# How long to wait for another host that is migrating.
OTHER_HOST_S = 600
# The one table that is not sharded by account, and so has no key of its own: the advisory lock keeps it right.
_BOOKKEEPING = """
CREATE SCHEMA IF NOT EXISTS caspen_sync;
CREATE TABLE IF NOT EXISTS caspen_sync.migration (
    number     integer     NOT NULL,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""


@dataclass(frozen=True, slots=True, order=True)
class Migration:
    """One file of sql/migrations/."""

    number: int
    name: str
    path: Path


def known_migrations() -> list[Migration]:
    """The migrations that this program brings, in order."""
    return sorted(
        Migration(int(match[1]), match[2], path)
        for path in (sql_dir() / "migrations").iterdir()
        if (match := _FILE_NAME.fullmatch(path.name))
    )


async def migrate(conn: asyncpg.Connection, *, with_roles: bool = False) -> list[Migration]:
    """Applies what is missing and returns it, and with it the roles, if wanted.

    Raises SchemaTooNew when the database knows a later migration, DatabaseRefused when one cannot be applied.
    """
    applied = await migrate_schema(conn)
    if with_roles:
        await apply_roles(conn)
    return applied


async def migrate_schema(conn: asyncpg.Connection) -> list[Migration]:
    """Applies the migrations that are missing and returns them; raises as `migrate` does."""
    async with _alone(conn):
        await conn.execute(_BOOKKEEPING)
        applied = await _applied(conn)
        _refuse_newer(applied)
        missing = [migration for migration in known_migrations() if migration.number not in applied]
        for migration in missing:
            await _apply(conn, migration)
    return missing


async def apply_roles(conn: asyncpg.Connection) -> None:
    """Makes the roles, or brings them up to date. Whoever makes a role needs CREATEROLE; granting does not."""
    async with _alone(conn):
        await conn.execute(roles())


@contextlib.asynccontextmanager
async def _alone(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Keeps other hosts waiting meanwhile."""
    with understood():
        await conn.execute("SET statement_timeout = 0; SET lock_timeout = 0")
        await conn.execute("SELECT pg_advisory_lock($1)", _ADVISORY_LOCK, timeout=OTHER_HOST_S)
        try:
            # After the advisory lock, to which it would apply as well.
            await conn.execute(_LOCK_TIMEOUT)
            yield
        finally:
            if not conn.is_closed():
                await conn.execute("SELECT pg_advisory_unlock($1)", _ADVISORY_LOCK)


async def _apply(conn: asyncpg.Connection, migration: Migration) -> None:
    """Applies one migration, wholly or not at all, in a moment in which nobody holds what it has to lock."""
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random  # not in an idle run

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(asyncpg.LockNotAvailableError),
        wait=wait_random(0.5, 2.0),
        stop=stop_after_delay(BUSY_OUTBOX_S),
        before_sleep=lambda state: _say_once(state.attempt_number, migration),
        reraise=True,
    )
    await retrying(_apply_once, conn, migration)


def _say_once(attempt: int, migration: Migration) -> None:
    if attempt == 1:
        say(
            f"migration {migration.path.name} has to lock a table for a moment, and somebody's transaction holds it; "
            f"it is tried for {BUSY_OUTBOX_S} s (pg_stat_activity tells who is idle in transaction)"
        )


async def _apply_once(conn: asyncpg.Connection, migration: Migration) -> None:
    try:
        async with conn.transaction():
            await conn.execute(migration.path.read_text(encoding="utf-8"), timeout=3600)
            await conn.execute(
                "INSERT INTO caspen_sync.migration (number, name) VALUES ($1, $2)", migration.number, migration.name
            )
    except asyncpg.SyntaxOrAccessError as error:
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            raise
        raise DatabaseRefused(
            f"database: migration {migration.path.name} cannot be applied: {error}; "
            "is there something else in the schema caspen_sync?"
        ) from error


async def require_current_schema(conn: asyncpg.Connection | asyncpg.Pool) -> None:
    """Raises SchemaMissing or SchemaTooNew unless the schema is the one that this program was written for."""
    with understood():
        if not await conn.fetchval(query("schema_present")):
            raise SchemaMissing("database: there is no schema caspen_sync; run caspen-sync migrate")
        applied = await _applied(conn)
    _refuse_newer(applied)
    missing = [migration.number for migration in known_migrations() if migration.number not in applied]
    if missing:
        numbers = ", ".join(map(str, missing))
        raise SchemaMissing(f"database: the schema lacks migration {numbers}; run caspen-sync migrate")


async def _applied(conn: asyncpg.Connection | asyncpg.Pool) -> set[int]:
    return {row["number"] for row in await conn.fetch(query("applied_migrations"))}


def _refuse_newer(applied: set[int]) -> None:
    newest = known_migrations()[-1].number
    newer = max(applied, default=0)
    if newer > newest:
        raise SchemaTooNew(
            f"database: the schema is at migration {newer}, but this caspen-sync knows them up to {newest}; "
            "install a newer caspen-sync"
        )
