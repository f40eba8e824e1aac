"""PgQueuer, as its guide to performance has it: asyncpg on uvloop, one direct connection for the queue and a pool for
the tasks, as large a batch as the bound on its tasks allows, and its settings for autovacuum. Its tables are as
durable as caspen-sync's, which is its default."""

from __future__ import annotations

import json
import sys

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from tests.bench.contestants import answers
from tests.bench.contestants.http import post, session
from tests.bench.work import Given


async def install(given: Given) -> None:
    """Its tables."""
    conn = await asyncpg.connect(given.dsn)
    queries = Queries(AsyncpgDriver(conn))
    await queries.install()
    await queries.optimize_autovacuum()
    await conn.close()


async def once(given: Given) -> None:
    """Works until there is no job left."""
    await _work(given, QueueExecutionMode.drain)


async def serve(given: Given) -> None:
    """Works and waits, until it is killed."""
    await _work(given, QueueExecutionMode.continuous)


async def _work(given: Given, mode: QueueExecutionMode) -> None:
    conn = await asyncpg.connect(given.dsn)
    queue = PgQueuer.from_asyncpg_connection(conn)

    @queue.entrypoint("send")
    async def send(job: Job) -> None:
        wanted = json.loads(job.payload or b"")
        answer = await post(http, given.base_url, wanted["appointment_id"], wanted["changes"])
        await answers.write(connections, wanted["appointment_id"], answer)

    async with session() as http, answers.pool(given.dsn) as connections:
        # It insists on twice the batch.
        await queue.run(mode=mode, batch_size=given.concurrency // 2, max_concurrent_tasks=given.concurrency)
    await conn.close()


if __name__ == "__main__":
    uvloop.run({"install": install, "once": once, "serve": serve}[sys.argv[1]](Given.of()))
