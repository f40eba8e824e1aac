"""Users that hold one of the least-privilege roles. Roles belong to the whole server, so each test makes its own."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from tests.support import canary
from tests.support.database import Database


@contextlib.asynccontextmanager
async def user_with(database: Database, role: str | None) -> AsyncIterator[str]:
    """The DSN of a login of its own that was granted `role`, if any, and nothing else; dropped at the end."""
    name = f"caspen_sync_test_{os.getpid()}_{secrets.token_hex(4)}"
    password = secrets.token_hex(8)
    canary.sing(password)
    await database.pool.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    try:
        if role is not None:
            await database.pool.execute(f"GRANT {role} TO {name}")
        yield _as_user(database.dsn, name, password)
    finally:
        await database.pool.execute(f"DROP ROLE {name}")


@contextlib.asynccontextmanager
async def connected_with(database: Database, role: str | None) -> AsyncIterator[asyncpg.Connection]:
    """A connection of such a user."""
    async with user_with(database, role) as dsn:
        conn = await asyncpg.connect(dsn)
        try:
            yield conn
        finally:
            await conn.close()


def _as_user(dsn: str, name: str, password: str) -> str:
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(name)}:{password}@{place}"))
