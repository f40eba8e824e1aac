"""Brings the schema up to date: numbered files of plain SQL, each applied once, in a transaction of its own.

Safe to run twice and from several hosts at once: the second waits for the first. A schema that is newer than this
program is left alone and refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from worker.database import understood
from worker.errors import SchemaMissing, SchemaTooNew
from worker.sqlfiles import query, roles, sql_dir

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")

# Any number, as long as nobody else locks it: the bytes of "caspen".
_ADVISORY_LOCK = int.from_bytes(b"caspen", "big")

# No migration waits long for a lock on the outbox, since whoever comes next would wait behind it.
_SETUP = """
SET lock_timeout = '5s';
SET statement_timeout = 0;
"""
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
    """Applies what is missing and returns it. Raises SchemaTooNew when the database knows a later migration."""
    with understood():
        await conn.execute(_SETUP)
        await conn.execute("SELECT pg_advisory_lock($1)", _ADVISORY_LOCK, timeout=600)
        try:
            await conn.execute(_BOOKKEEPING)
            applied = await _applied(conn)
            _refuse_newer(applied)
            missing = [migration for migration in known_migrations() if migration.number not in applied]
            for migration in missing:
                async with conn.transaction():
                    await conn.execute(migration.path.read_text(encoding="utf-8"), timeout=3600)
                    await conn.execute(
                        "INSERT INTO caspen_sync.migration (number, name) VALUES ($1, $2)",
                        migration.number,
                        migration.name,
                    )
            if with_roles:
                await conn.execute(roles())
        finally:
            if not conn.is_closed():
                await conn.execute("SELECT pg_advisory_unlock($1)", _ADVISORY_LOCK)
    return missing


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
