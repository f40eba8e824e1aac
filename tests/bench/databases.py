"""Databases of the contestants: each has a template, in which it has worked off a few changes already, and each run
gets a fresh copy of it, so that no run finds what another one left behind."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable

import asyncpg
import psutil

from tests.bench.processes import Failed, ended, finish, start
from tests.bench.roster import CASPEN_SYNC, Contestant
from tests.bench.serverprocess import ServerProcess
from tests.bench.work import BODY, Given, appointment_id
from tests.support.database import with_database
from worker.migrate import migrate

WARM_UP = range(50)
"""Appointments that are worked off in the template: what is made by a first start is there, and Python has compiled."""
_LIMIT_S = 120
_COMMITS = 500


async def make_template(dsn: str, contestant: Contestant, server: ServerProcess) -> None:
    """Raises Failed when the contestant does not work at all."""
    name = _template(contestant)
    conn = await asyncpg.connect(dsn)
    await conn.execute(f'CREATE DATABASE "{name}"')
    await conn.close()
    given = contestant.given(with_database(dsn, name), server.base_url, WARM_UP)
    async with connected(given.dsn) as conn:
        if contestant is CASPEN_SYNC:
            await migrate(conn)
        if contestant.schema:
            await conn.execute(contestant.schema)
        if contestant.installs:
            await _run(contestant, "install", given=given)
        await write(conn, contestant, WARM_UP)
    server.expect(range(0))  # it answers them all, and counts nothing
    await _run(contestant, *contestant.once, given=given)
    if await done(given.dsn, contestant) not in (None, len(WARM_UP)):
        raise Failed("the warm-up is not written back")
    async with connected(given.dsn) as conn:
        await _tidy(conn)


@contextlib.asynccontextmanager
async def fresh_copy(dsn: str, contestant: Contestant, name: str, numbers: range) -> AsyncIterator[str]:
    """The DSN of a database with a change of each of these appointments to work off, vacuumed and written to disk."""
    async with connected(dsn) as admin:
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{_template(contestant)}"')
        copy = with_database(dsn, name)
        try:
            async with connected(copy) as conn:
                if numbers:
                    await write(conn, contestant, numbers)
                await _tidy(conn)
            yield copy
        finally:
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def write(conn: asyncpg.Connection, contestant: Contestant, numbers: Iterable[int]) -> None:
    """One change for each appointment, in one statement."""
    await conn.execute(contestant.write, [appointment_id(number) for number in numbers], BODY)


async def done(dsn: str, contestant: Contestant) -> int | None:
    """How many appointments are written back, the warm-up's among them."""
    if contestant.done is None:
        return None
    async with connected(dsn) as conn:
        return int(await conn.fetchval(contestant.done))


async def described(dsn: str) -> str:
    """The server's version, how safe its commits are, and how long one takes."""
    async with connected(dsn) as conn:
        version, fsync, commits = await conn.fetchrow(
            "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')"
        )
        await conn.execute("CREATE TABLE bench_commit (nth int)")
        began = time.perf_counter()
        for number in range(_COMMITS):
            await conn.execute("INSERT INTO bench_commit VALUES ($1)", number)
        commit_ms = (time.perf_counter() - began) / _COMMITS * 1000
        await conn.execute("DROP TABLE bench_commit")
    return f"{version}, fsync {fsync}, synchronous_commit {commits}; a commit of one row takes {commit_ms:.2f} ms"


async def postmaster(dsn: str) -> int:
    """The process id of the server, which runs on this machine."""
    async with connected(dsn) as conn:
        return int(psutil.Process(await conn.fetchval("SELECT pg_backend_pid()")).ppid())


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(dsn)
    try:
        yield conn
    finally:
        await conn.close()


async def _run(contestant: Contestant, *args: str, given: Given) -> None:
    process = await start(contestant.module, *args, variables=contestant.variables(given))
    async with ended(process), asyncio.timeout(_LIMIT_S):
        await finish(process)


async def _tidy(conn: asyncpg.Connection) -> None:
    """No later run pays for it, nor does any for another one's."""
    await conn.execute("VACUUM (ANALYZE)")
    await conn.execute("CHECKPOINT")


def _template(contestant: Contestant) -> str:
    return f"bench_{contestant.name}"
