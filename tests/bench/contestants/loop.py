"""An afternoon's loop: a batch FOR UPDATE SKIP LOCKED, all of its POSTs at once, and then row by row what came of them,
in one transaction. No budget, no retry, no order, and a crash sends the batch again."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import aiohttp
import asyncpg
import uvloop

from tests.bench.contestants.http import post, session
from tests.bench.work import Given

POLL_S = 5.0
TAKE = """
    SELECT id, appointment_id, changes FROM outbox
    WHERE state = 'pending' ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
DONE = "UPDATE outbox SET state = 'synced', answer = $2, finished_at = now() WHERE id = $1"


async def _batch(conn: asyncpg.Connection, http: aiohttp.ClientSession, given: Given) -> bool:
    """Whether there was anything to do."""
    async with conn.transaction():
        rows = await conn.fetch(TAKE, given.concurrency)
        answers = await asyncio.gather(
            *(post(http, given.base_url, row["appointment_id"], row["changes"]) for row in rows)
        )
        for row, answer in zip(rows, answers, strict=True):
            await conn.execute(DONE, row["id"], answer)
    return bool(rows)


async def once(given: Given) -> None:
    conn = await asyncpg.connect(given.dsn)
    async with session() as http:
        while await _batch(conn, http, given):
            pass
    await conn.close()


async def serve(given: Given) -> None:
    conn = await asyncpg.connect(given.dsn)
    woken = asyncio.Event()
    await conn.add_listener("outbox", lambda *_: woken.set())
    async with session() as http:
        while True:
            woken.clear()
            if not await _batch(conn, http, given):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await woken.wait()


if __name__ == "__main__":
    uvloop.run({"once": once, "serve": serve}[sys.argv[1]](Given.of()))
