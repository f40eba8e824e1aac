"""The bare limit: what aiohttp on uvloop can send, by itself or woken by a bare LISTEN. Nothing is looked up in a
database, nothing is claimed, retried or kept."""

from __future__ import annotations

import asyncio
import sys

import asyncpg
import uvloop

from tests.bench.contestants.http import post, session
from tests.bench.work import BODY, Given, appointment_id


async def once(given: Given) -> None:
    numbers = iter(given.numbers)

    async def sender() -> None:
        for number in numbers:
            await post(http, given.base_url, appointment_id(number), BODY)

    async with session() as http:
        await asyncio.gather(*(sender() for _ in range(given.concurrency)))


async def serve(given: Given) -> None:
    conn = await asyncpg.connect(given.dsn)
    ids: asyncio.Queue[str] = asyncio.Queue()
    await conn.add_listener("bare", lambda *notification: ids.put_nowait(notification[-1]))
    async with session() as http:
        while True:
            await post(http, given.base_url, await ids.get(), BODY)


if __name__ == "__main__":
    uvloop.run({"once": once, "serve": serve}[sys.argv[1]](Given.of()))
