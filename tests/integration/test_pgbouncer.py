"""Workers behind a PgBouncer that pools transactions, and everything that it may do to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests.support.claims import accepted, claim, limits, settle
from tests.support.database import Database
from tests.support.outages import Clinic, clinic, refused, watched
from tests.support.pgbouncer import PgBouncer, pgbouncer
from tests.support.servers import Server
from tests.support.waiting import eventually
from worker import clock
from worker.config import DatabaseSettings
from worker.database import connection, pool, understood
from worker.errors import DatabaseRefused, DatabaseUnreachable
from worker.session import SETTINGS
from worker.status import status
from worker.store import Store

# Many commands, each a process: together they take most of a minute.
pytestmark = pytest.mark.long

MEND = "set database.pgbouncer = true"
# What a careful administrator does for clients that set them, and what makes a forgotten setting fail later.
LET_THROUGH = ",".join([*SETTINGS, "default_transaction_isolation"])


@pytest.fixture
def bouncer(server_dsn: str) -> Iterator[PgBouncer]:
    """In front of the test server, with three server connections."""
    with pgbouncer(server_dsn) as running:
        yield running


@pytest.fixture
def narrow(server_dsn: str) -> Iterator[PgBouncer]:
    """With one server connection: what one client leaves behind there, the next one meets."""
    with pgbouncer(server_dsn, default_pool_size="1") as running:
        yield running


def through(bouncer: PgBouncer, dsn: str, *, told: bool = True) -> DatabaseSettings:
    """Settings of a worker. `told`: whether it knows of the PgBouncer."""
    return DatabaseSettings.model_validate({"dsn": bouncer.dsn(dsn), "pgbouncer": told})


def behind(
    bouncer: PgBouncer, database: Database, *, latency_s: float
) -> contextlib.AbstractAsyncContextManager[Clinic]:
    """A clinic whose workers go through this PgBouncer, and know it."""
    return clinic(database, latency_s=latency_s, dsn=bouncer.dsn(database.dsn), DATABASE__PGBOUNCER="true")


@contextlib.asynccontextmanager
async def another_client(bouncer: PgBouncer, database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's connection to the same database, who sets nothing."""
    conn = await asyncpg.connect(bouncer.dsn(database.dsn), statement_cache_size=0)
    try:
        yield conn
    finally:
        await conn.close()


async def test_the_connection_changes_between_statements(bouncer: PgBouncer, database: Database) -> None:
    """Six workers, each on one connection, over three server connections in turn: no lease is lost, and every change is
    settled once."""
    appointments = 60
    for number in range(appointments):
        await database.write(f"app_{number}", {"note": "change 1"})
    settled: list[str] = []

    async def work(name: str) -> set[int]:
        pids = set()
        async with pool(through(bouncer, database.dsn), max_size=1) as connections:
            store = Store(connections, worker=name)
            await store.register({"default": limits()})
            while len(settled) < appointments:
                await store.take_in(["default"])
                for claimed in await claim(store, 3):
                    assert await settle(store, accepted(claimed)) == []
                    settled.append(claimed.appointment_id)
                pids.add(await connections.fetchval("SELECT pg_backend_pid()"))
        return pids

    async with contextlib.AsyncExitStack() as at_once:
        for _ in range(3):
            conn = await at_once.enter_async_context(another_client(bouncer, database))
            await at_once.enter_async_context(conn.transaction())
    pids = await asyncio.gather(*(work(f"worker-{number}") for number in range(6)))
    assert len(settled) == len(set(settled)) == appointments
    assert await database.states() == {"synced": appointments}
    assert len(set.union(*pids)) == 3
    assert any(len(of_one) > 1 for of_one in pids)


async def test_each_transaction_has_our_settings(narrow: PgBouncer, database: Database) -> None:
    """A single statement and a transaction run under our settings and isolation, whatever the database's are; the next
    client of the same server connection finds the database's."""
    name = await database.value("SELECT current_database()")
    for of_database in ("synchronous_commit = off", "default_transaction_isolation = serializable", "jit = on"):
        await database.pool.execute(f'ALTER DATABASE "{name}" SET {of_database}')
    await database.write("app_1", {"note": "change 1"})
    read = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1)"
    names = [*SETTINGS, "transaction_isolation"]
    ours = SETTINGS | {"transaction_isolation": "read committed"}

    async with connection(through(narrow, database.dsn)) as conn, another_client(narrow, database) as other:
        await other.execute("SET work_mem = '5MB'")  # as a connect_query of PgBouncer's may
        before = await all_settings(other)
        assert dict(await conn.fetch(read, names)) == ours
        async with conn.transaction():
            assert dict(await conn.fetch(read, names)) == ours
        with pytest.raises(asyncpg.DivisionByZeroError):
            await conn.fetchval("SELECT 1 / $1::int", 0)
        await one_round(through(narrow, database.dsn))
        assert await all_settings(other) == before
        assert before.items() >= {"synchronous_commit": "off", "transaction_isolation": "serializable"}.items()


async def one_round(settings: DatabaseSettings) -> None:
    """What a worker does all the time, arrays included, for whose types asyncpg asks the server."""
    async with pool(settings, max_size=1) as connections:
        store = Store(connections, worker="worker-1")
        await store.register({"default": limits()})
        await store.take_in(["default"])
        (claimed,) = await claim(store, 8)
        assert await settle(store, accepted(claimed)) == []
        await store.outlook(["default"])
        async with connections.acquire() as conn:
            await status(conn)


async def all_settings(conn: asyncpg.Connection) -> dict[str, str]:
    """As the next transaction of a client finds them."""
    async with conn.transaction():
        return dict(await conn.fetch("SELECT name, setting FROM pg_settings WHERE name <> 'application_name'"))


async def test_nothing_stays_open(narrow: PgBouncer, database: Database) -> None:
    """A statement that fails, one that takes too long, and one that is cancelled, alone or in a transaction: what came
    before it in its transaction is rolled back, and the server connection is free for the next client."""
    await database.write("app_1", {"note": "change 1"})
    spoil = "UPDATE caspen_sync.outbox SET attempts = 99"

    async def fail(conn: asyncpg.Connection) -> None:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await conn.fetchval("SELECT 1 / $1::int", 0)

    async def take_too_long(conn: asyncpg.Connection) -> None:
        with pytest.raises(TimeoutError):
            await conn.fetchval("SELECT pg_sleep($1)", 60, timeout=0.05)

    async def be_cancelled(conn: asyncpg.Connection) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await conn.execute("SELECT pg_sleep($1)", 60)

    async with pool(through(narrow, database.dsn), max_size=1) as connections:
        for mishap in (fail, take_too_long, be_cancelled):
            async with connections.acquire() as conn:
                await mishap(conn)
            with contextlib.suppress(RuntimeError):
                async with connections.acquire() as conn, conn.transaction():
                    await conn.execute(spoil)
                    await mishap(conn)
                    raise RuntimeError
            async with another_client(narrow, database) as other:
                assert await other.fetchval("SELECT attempts FROM caspen_sync.outbox", timeout=5) == 0
            assert not await database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
            )


async def test_a_connection_that_gives_no_answer_is_ended(narrow: PgBouncer, database: Database) -> None:
    """PgBouncer is paused, and a statement waits for longer than it may: its error comes at once, and the pool serves
    the next one over another connection."""
    async with pool(through(narrow, database.dsn), max_size=1) as connections:
        async with connections.acquire() as conn:
            narrow.pause()
            await eventually(lambda: "SIGUSR1" in narrow.log(), what="PgBouncer is paused")
            began = clock.now()
            with pytest.raises(TimeoutError):
                await conn.fetchval("SELECT $1::int", 1, timeout=0.1)
            assert clock.now() - began < 10
        narrow.resume()
        assert await connections.fetchval("SELECT $1::int", 1) == 1


async def test_the_setting_was_forgotten(bouncer: PgBouncer, database: Database) -> None:
    """database.pgbouncer is false: the command ends with 78 and says what to set."""
    env = {"DATABASE__PGBOUNCER": "false"}
    async with clinic(database, dsn=bouncer.dsn(database.dsn), **env) as one:
        await refused(one.env, "run", "--once", exit_code=78, words=MEND)


async def test_the_setting_was_forgotten_and_shows_late(server_dsn: str, database: Database) -> None:
    """The same where PgBouncer lets our startup parameters pass: prepared statements that are not there any more, or
    that another client made, tell it."""
    with pgbouncer(server_dsn, default_pool_size="1", ignore_startup_parameters=LET_THROUGH) as lenient:
        settings = through(lenient, database.dsn, told=False)
        async with connection(settings) as one, connection(settings) as other:
            await one.fetchval("SELECT 1")
            # In two processes asyncpg gives the same names by itself.
            assert await (await one.prepare("SELECT 1", name="first")).fetchval() == 1
            with pytest.raises(DatabaseRefused, match=f"already exists; {MEND}"), understood():
                await other.prepare("SELECT 1", name="first")
            await one.execute("DEALLOCATE ALL")
            with pytest.raises(DatabaseRefused, match=f"does not exist; {MEND}"), understood():
                await one.fetchval("SELECT 1")


async def test_pgbouncer_restarts_under_a_service(bouncer: PgBouncer, database: Database) -> None:
    """It goes away with requests on the wire, and comes back: the service waits and says so; nothing is lost or sent
    twice."""
    async with behind(bouncer, database, latency_s=0.5) as one:
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            bouncer.stop()
            await service.says("write_back_waits", "database: cannot be reached: ")
            await service.says("database_waited_for", "database: cannot be reached: ")
            await refused(one.env, "run", "--once", exit_code=69, words="database: cannot be reached: ")
            bouncer.start()
            await one.nothing_lost()
            await one.stopped(service)


async def test_pgbouncer_is_paused_under_a_service(server_dsn: str, database: Database) -> None:
    """PAUSE with requests on the wire, for longer than query_wait_timeout; after RESUME all is written."""
    with pgbouncer(server_dsn, query_wait_timeout="1") as bouncer:
        async with behind(bouncer, database, latency_s=0.5) as one:
            await one.write(8)
            async with watched(one.env) as service:
                await one.on_the_wire(8)
                bouncer.pause()
                await service.says("write_back_waits", "query_wait_timeout")
                bouncer.resume()
                await one.nothing_lost()
                await one.stopped(service)


async def test_postgres_fails_over_behind_pgbouncer(server: Server) -> None:
    """PgBouncer first met a standby, which is promoted then. It goes on telling its clients that they are on a standby;
    the worker asks the server."""
    await server.restart_as_standby()
    with pgbouncer(server.dsn()) as bouncer:
        settings = through(bouncer, server.dsn())
        with pytest.raises(DatabaseUnreachable, match="read-only"):
            async with connection(settings):
                pass
        await server.promote()
        async with connection(settings) as conn:
            assert await conn.fetchval("SELECT pg_is_in_recovery()") is False
            told = await asyncpg.connect(bouncer.dsn(server.dsn()), statement_cache_size=0)
            assert told.get_settings().in_hot_standby == "on"
            await told.close()


async def test_a_connection_that_leads_to_a_standby_is_given_up(server: Server) -> None:
    """The server behind PgBouncer became a standby, and the connection to PgBouncer lives on: the first write that is
    refused ends it, so that the next one looks for the primary."""
    with pgbouncer(server.dsn()) as bouncer:
        async with connection(through(bouncer, server.dsn())) as conn:
            await server.restart_as_standby()
            with contextlib.suppress(asyncpg.PostgresError):  # the first one meets the connection that died
                await conn.fetchval("SELECT 1")
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await conn.execute("DELETE FROM caspen_sync.worker")
            assert conn.is_closed()
