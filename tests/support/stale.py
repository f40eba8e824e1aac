"""A claim that reads the outbox and then is slow."""

from __future__ import annotations

import asyncio

import asyncpg

from tests.support.claims import blocked, limits
from tests.support.database import Database
from worker.claims import Claim
from worker.store import Store


async def stale_claim(database: Database, store: Store) -> tuple[asyncpg.Connection, asyncio.Task[list[Claim]]]:
    """A claim whose snapshot is taken, and which waits before it has looked at the queue.

    It waits for the row of a refused account, of which it would take the probe; the connection that holds that row is
    returned along, in a transaction.
    """
    await store.register({"refused": limits()})
    await database.write("app_x", {"note": "n"}, account="refused")
    await store.take_in(["refused"])
    await database.pool.execute(
        "UPDATE caspen_sync.account SET pause_kind = 'refused', paused_until = now() WHERE account = 'refused'"
    )
    holder = await asyncpg.connect(database.dsn)
    await holder.execute("BEGIN")
    await holder.execute("SELECT FROM caspen_sync.account WHERE account = 'refused' FOR UPDATE")
    claimer = await asyncpg.create_pool(database.dsn, min_size=1, max_size=1)
    async with claimer.acquire() as conn:
        pid = conn.get_server_pid()

    async def run() -> list[Claim]:
        try:
            return await Store(claimer, worker="stale").claim(
                {"refused": 5, "default": 5}, timeout_s=30, lease_s=60, max_changes=1000
            )
        finally:
            await claimer.close()

    task = asyncio.create_task(run())
    await blocked(database, pid)
    return holder, task
