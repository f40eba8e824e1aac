"""Statements that Postgres cuts short: time limits, deadlocks, isolation, a killed session, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.support.database import Database
from tests.support.outages import Clinic, clinic, watched
from tests.support.pgbouncer import way_through
from tests.support.processes import TOKEN
from tests.support.servers import Server, looked_into
from tests.support.waiting import eventually
from worker.database import understood
from worker.errors import DatabaseUnreachable

CANNOT = "database: Postgres cannot do this now: "


@pytest.mark.parametrize("ask", ["fetch", "fetchrow", "fetchval", "execute"])
async def test_a_connection_that_is_lost_before_a_prepared_statement_runs(database: Database, ask: str) -> None:
    """It is lost in the very moment in which asyncpg has prepared the statement: that is told like any other loss."""
    async with database.workers.acquire() as pooled:
        conn = pooled._con
        prepare = conn._get_statement

        async def prepare_and_lose(*args: Any, **kwargs: Any) -> Any:
            statement = await prepare(*args, **kwargs)
            conn.terminate()
            return statement

        conn._get_statement = prepare_and_lose
        with pytest.raises(DatabaseUnreachable, match="cannot be reached"), understood():
            await getattr(conn, ask)("SELECT $1::int", 1)


@contextlib.asynccontextmanager
async def holding(database: Database, *statements: str) -> AsyncIterator[asyncpg.Connection]:
    """An open transaction that has run the statements, rolled back at the end."""
    conn = await asyncpg.connect(database.dsn)
    try:
        await conn.execute("BEGIN")
        for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            await conn.execute(f"SET LOCAL {limit} = 0")
        for statement in statements:
            await conn.execute(statement)
        yield conn
    finally:
        await conn.close()


async def set_default(database: Database, setting: str, value: str) -> None:
    """For every session that begins from now on."""
    name = await database.value("SELECT current_database()")
    await database.pool.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("statement_timeout", CANNOT + "canceling statement due to statement timeout"),
        pytest.param(
            "lock_timeout",
            "database: somebody holds a lock that this needs; it was not done, try again",
            marks=pytest.mark.long,
        ),
    ],
    ids=["statement_timeout", "lock_timeout"],
)
async def test_a_time_limit_of_the_database(database: Database, setting: str, words: str) -> None:
    """Somebody holds locks, and Postgres cancels settle and claim: both are tried again, and say why they wait."""
    await set_default(database, setting, "300ms")
    async with clinic(database, latency_s=0.5) as one:
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            async with holding(database, "SELECT FROM caspen_sync.queue FOR UPDATE"):
                await service.says("write_back_waits", words)
            await one.nothing_lost()
            async with holding(database, "LOCK TABLE caspen_sync.rate_slot"):
                await one.write(8, note=2)
                await service.says("database_waited_for", words)
            await one.nothing_lost()
            await one.stopped(service)


@pytest.mark.long
async def test_one_run_under_a_time_limit(database: Database) -> None:
    """run --once waits for the lock as well, and ends with 0 once it is free."""
    await set_default(database, "statement_timeout", "300ms")
    async with clinic(database) as one:
        await one.write(8)
        async with watched(one.env, "--once") as run:
            async with holding(database, "LOCK TABLE caspen_sync.attempt"):
                await run.says("write_back_waits", CANNOT + "canceling statement due to statement timeout")
            assert (await run.ends()).exit_code == 0
        await one.nothing_lost()


@pytest.mark.long
async def test_a_transaction_that_may_not_last(server: Server) -> None:
    """transaction_timeout, of Postgres 17 and newer: it ends the session, and the settle is tried again."""
    async with looked_into(server.dsn()) as database, clinic(database, latency_s=0.5) as one:
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            async with holding(database, "SELECT FROM caspen_sync.queue FOR UPDATE"):
                await set_default(database, "transaction_timeout", "300ms")
                await database.rows(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'caspen-sync' AND datname = current_database()"
                )
                await service.says("write_back_waits", "terminating connection due to transaction timeout")
            await one.nothing_lost()
            assert not service.events("answer_not_storable")
            await one.stopped(service)


async def frozen_in_a_transaction(one: Clinic, process: asyncio.subprocess.Process) -> int:
    """Stops the worker after the settle of a refused token, before it pauses the account in the same transaction.

    Returns the process id of its session, which is idle in that transaction.
    """
    one.sandbox.set_tokens(())
    await one.write(1)
    await one.on_the_wire(1)
    async with holding(one.database, "SELECT FROM caspen_sync.queue FOR UPDATE"):
        await eventually(one.waits_for_a_lock, what="the settle waits")
        process.send_signal(signal.SIGSTOP)
    return int(await eventually(lambda: one.backends("pid", "state = 'idle in transaction' LIMIT 1")))


async def welcome_again(one: Clinic) -> None:
    """The token is good again, and the next probe is due."""
    await eventually(lambda: one.database.value("SELECT true FROM caspen_sync.account WHERE pause_kind = 'refused'"))
    one.sandbox.set_tokens((TOKEN,))
    await one.database.pool.execute("UPDATE caspen_sync.account SET paused_until = now(), probe_until = NULL")


@pytest.mark.long
async def test_a_vanished_worker_keeps_no_lock(database: Database) -> None:
    """Postgres ends the transaction of a worker that froze in it, and its locks, by a limit that the worker set for
    itself: thawed, the worker writes all of it again."""
    async with clinic(database, latency_s=0.5) as one, watched(one.env) as service:
        pid = await frozen_in_a_transaction(one, service.process)
        await eventually(lambda: gone(database, pid), limit_s=30, what="Postgres ended the session")
        assert await database.value("SELECT pause_kind FROM caspen_sync.account") is None
        service.process.send_signal(signal.SIGCONT)
        await service.says("write_back_waits", "database: ")
        await welcome_again(one)
        await one.nothing_lost(sent_once=False)
        assert not service.events("answer_not_storable")
        await one.stopped(service)


async def gone(database: Database, pid: int) -> bool:
    return not await database.value("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid)


@pytest.mark.long
async def test_a_deadlock(database: Database) -> None:
    """Somebody locks a change and then its place in the queue, the other way round than the settle, which Postgres
    then kills: it is tried again, and the outcome is written."""
    async with clinic(database, latency_s=0.5) as one:
        await one.write(1)
        async with watched(one.env) as service:
            await one.on_the_wire(1)
            # This side never looks for deadlocks, so it is the settle that finds it and dies.
            async with holding(
                database, "SET LOCAL deadlock_timeout = '1h'", "SELECT FROM caspen_sync.outbox FOR UPDATE"
            ) as other:
                await eventually(one.waits_for_a_lock, what="the settle waits")
                await other.execute("SELECT FROM caspen_sync.queue FOR UPDATE")
                await service.says("write_back_waits", CANNOT + "deadlock detected")
            await one.nothing_lost()
            await one.stopped(service)


async def test_a_session_killed_in_the_middle_of_the_settle(database: Database) -> None:
    """pg_terminate_backend while the settle runs: it is tried again, and the outcome is written."""
    by_pgbouncer = way_through(database.dsn)
    words = "server conn crashed?" if by_pgbouncer else "terminating connection due to administrator command"
    async with clinic(database, latency_s=0.5) as one:
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            async with holding(database, "SELECT FROM caspen_sync.queue FOR UPDATE"):
                await eventually(one.waits_for_a_lock, what="the settle waits")
                assert await one.backends("bool_and(pg_terminate_backend(pid))", "wait_event_type = 'Lock'")
                await service.says("write_back_waits", words)
            await one.nothing_lost()
            await one.stopped(service)


@pytest.mark.parametrize(
    ("isolation", "pgbouncer"),
    [
        ("serializable", "false"),
        ("repeatable read", "true"),
        pytest.param("repeatable read", "false", marks=pytest.mark.long),
        pytest.param("serializable", "true", marks=pytest.mark.long),
    ],
)
async def test_another_isolation_by_default(database: Database, isolation: str, pgbouncer: str) -> None:
    """Two services beside writers that work, as everyone in this database, at a higher level and try again when they
    have to: nothing is lost. The workers set a level of their own and never have to."""
    await set_default(database, "default_transaction_isolation", isolation)
    async with looked_into(database.dsn) as fresh, clinic(fresh, DATABASE__PGBOUNCER=pgbouncer) as one:
        assert await fresh.value("SHOW transaction_isolation") == isolation
        async with watched(one.env) as first, watched(one.env) as second:
            for service in (first, second):
                await service.says("worker_started")
            await asyncio.gather(*(write_stubbornly(fresh, writer) for writer in range(4)))
            await one.nothing_lost()
            for service in (first, second):
                waits = service.events("write_back_waits") + service.events("database_waited_for")
                assert not waits
                await one.stopped(service)


async def write_stubbornly(database: Database, writer: int) -> None:
    """Six changes for each of five appointments, two in a transaction, each transaction until it is committed."""
    async with database.pool.acquire() as conn:
        for note in range(1, 7, 2):
            for appointment in range(5):
                while True:
                    try:
                        async with conn.transaction():
                            for number in (note, note + 1):
                                await database.write(
                                    f"app_{writer}_{appointment}", {"note": f"change {number}"}, conn=conn
                                )
                    except asyncpg.SerializationError:
                        continue
                    break


async def test_a_full_disk(server: Server) -> None:
    """No space for the table of attempts: the outcome is kept and the changes stay pending until there is space again.

    The table's file is swapped for /dev/full, where each write fails as on a full disk.
    """
    async with looked_into(server.dsn()) as database, clinic(database, latency_s=0.3) as one:
        file = server.data / await database.value("SELECT pg_relation_filepath('caspen_sync.attempt')")
        empty = file.with_suffix(".empty")
        file.rename(empty)
        file.symlink_to("/dev/full")
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            await service.says("write_back_waits", CANNOT + "could not extend file")
            await service.says("write_back_waits", "No space left on device")
            assert await database.states() == {"pending": 8}
            empty.replace(file)
            # Makes the sessions let go of what they took for the file.
            await database.pool.execute("ALTER TABLE caspen_sync.attempt SET (autovacuum_enabled = true)")
            await one.nothing_lost()
            await one.stopped(service)
