"""Where the job queues' tasks write what was answered: they have a place for jobs, and none for what comes of them."""

from __future__ import annotations

import asyncpg

POOL = 16
TABLE = "CREATE TABLE answer (appointment_id text PRIMARY KEY, resource jsonb NOT NULL, at timestamptz NOT NULL)"
_WRITE = """
    INSERT INTO answer (appointment_id, resource, at) VALUES ($1, $2, now())
    ON CONFLICT (appointment_id) DO UPDATE SET resource = excluded.resource, at = excluded.at
"""


def pool(dsn: str) -> asyncpg.Pool:
    """To be opened by `async with`."""
    return asyncpg.create_pool(dsn, min_size=POOL, max_size=POOL)


async def write(connections: asyncpg.Pool, appointment_id: str, answer: str) -> None:
    await connections.execute(_WRITE, appointment_id, answer)
