"""Procrastinate, as its documentation has it: PsycopgConnector on uvloop, one worker with `concurrency`, LISTEN, and
jobs that are deleted when they have succeeded.

Each job is fetched by a statement of its own, one after the other, and that sets the pace: more connections than four,
the pool's default, made it no faster, nor did more concurrency.
"""

from __future__ import annotations

import sys

import procrastinate
import uvloop

from tests.bench.contestants import answers
from tests.bench.contestants.http import post, session
from tests.bench.work import Given


async def install(given: Given) -> None:
    """Its tables."""
    async with _application(given).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def once(given: Given) -> None:
    """Works until there is no job left."""
    await _work(given, waits=False)


async def serve(given: Given) -> None:
    """Works and waits, until it is killed."""
    await _work(given, waits=True)


def _application(given: Given) -> procrastinate.App:
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=given.dsn))


async def _work(given: Given, *, waits: bool) -> None:
    app = _application(given)

    @app.task(name="send")
    async def send(appointment_id: str, changes: str) -> None:
        await answers.write(connections, appointment_id, await post(http, given.base_url, appointment_id, changes))

    async with session() as http, answers.pool(given.dsn) as connections, app.open_async():
        await app.run_worker_async(concurrency=given.concurrency, wait=waits, delete_jobs="successful")


if __name__ == "__main__":
    uvloop.run({"install": install, "once": once, "serve": serve}[sys.argv[1]](Given.of()))
