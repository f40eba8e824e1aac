"""A server that goes away and comes back: restarts, and a failover to a standby."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import asyncpg
import pytest

from tests.support.outages import Clinic, clinic, refused, watched
from tests.support.servers import Server, looked_into, server_on_a_copy
from tests.support.waiting import eventually

READ_ONLY = "database: the server is read-only: a standby"


@pytest.mark.parametrize("mode", [pytest.param("fast", marks=pytest.mark.long), "immediate"])
async def test_a_restart_with_requests_on_the_wire(server: Server, mode: str) -> None:
    """The server goes down while requests are out and comes back after their answers: each is written, none lost."""
    async with looked_into(server.dsn()) as database, clinic(database, latency_s=1.0) as one:
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            await server.stop(mode)
            await one.answered()
            await service.says("write_back_waits", "database: ")
            await server.start()
            await one.nothing_lost()
            await service.says("listen_lost")
            one.sandbox.set_latency(0)
            await one.write(8, note=2)
            await one.nothing_lost()
            await one.stopped(service)


@pytest.mark.parametrize("mode", [pytest.param("fast", marks=pytest.mark.long), "immediate"])
async def test_a_restart_while_writing_back(server: Server, mode: str) -> None:
    """The server goes down in the middle of the settle's transaction: it is tried again, and written once."""
    async with looked_into(server.dsn()) as database, clinic(database, latency_s=0.5) as one:
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            holder = await asyncpg.connect(server.dsn())
            await holder.execute("BEGIN; SELECT FROM caspen_sync.queue FOR UPDATE")
            await eventually(one.waits_for_a_lock, what="the settle waits")
            await server.restart(mode)
            await service.says("write_back_waits", "database: ")
            await one.nothing_lost()
            await one.stopped(service)


@pytest.mark.long
async def test_one_run_through_a_restart(server: Server) -> None:
    """run --once waits for a server that restarts under it, and ends with 0 and everything written."""
    async with looked_into(server.dsn()) as database, clinic(database, latency_s=1.0) as one:
        await one.write(12)
        async with watched(one.env, "--once") as run:
            await one.on_the_wire(8)
            await server.stop("immediate")
            await one.answered()
            await run.says("write_back_waits", "database: cannot be reached: ")
            await server.start()
            assert (await run.ends()).exit_code == 0
        await one.nothing_lost()


@pytest.mark.long
async def test_a_failover_to_a_standby(server: Server) -> None:
    """The service's connections reach a standby, which only reads: it waits and says so, and works on when the standby
    is promoted. Whoever starts meanwhile is told so in one line."""
    async with looked_into(server.dsn()) as database, clinic(database, latency_s=1.0) as one:
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            await server.restart_as_standby()
            assert await database.value("SELECT pg_is_in_recovery()")
            await service.says("write_back_waits", READ_ONLY)
            await service.says("database_waited_for", READ_ONLY)
            await service.says("listen_lost", READ_ONLY)
            await asyncio.gather(
                refused(one.env, "run", "--once", exit_code=69, words=READ_ONLY),
                refused(one.env, "run", exit_code=69, words=READ_ONLY),
                refused(one.env, "migrate", exit_code=69, words=READ_ONLY),
            )
            await server.promote()
            await one.nothing_lost()
            await one.write(8, note=2)
            await one.nothing_lost()
            await one.stopped(service)


async def test_an_idle_standby_is_no_idle_system(server: Server) -> None:
    """What a standby shows may be old: one run that finds nothing to do there ends with 69, not with 0."""
    await server.restart_as_standby()
    async with looked_into(server.dsn()) as database, clinic(database) as one:
        await refused(one.env, "run", "--once", exit_code=69, words=READ_ONLY)


@pytest.mark.long
async def test_of_several_hosts_the_primary_is_taken(server: Server, cluster: Path) -> None:
    """A DSN that names a standby first: the changes go through the primary behind it."""
    await server.restart_as_standby()
    async with (
        server_on_a_copy(cluster) as primary,
        looked_into(primary.dsn()) as database,
        clinic(database, dsn=f"postgresql://postgres@127.0.0.1:{server.port},127.0.0.1:{primary.port}/clinic") as one,
    ):
        await one.write(3)
        async with watched(one.env, "--once") as run:
            assert (await run.ends()).exit_code == 0
        await one.nothing_lost()


async def test_a_database_set_to_read_only(server: Server) -> None:
    """default_transaction_read_only during maintenance: the service waits and says so, and works on afterwards."""
    async with looked_into(server.dsn()) as database, clinic(database) as one, watched(one.env) as service:
        await service.says("listening")
        admin = await asyncpg.connect(server.dsn(database="postgres"))
        await admin.execute("ALTER DATABASE clinic SET default_transaction_read_only = on")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'clinic'")
        await service.says("database_waited_for", READ_ONLY)
        await refused(one.env, "run", "--once", exit_code=69, words=READ_ONLY)
        await admin.execute("ALTER DATABASE clinic RESET default_transaction_read_only")
        await admin.close()
        await one.write(3)
        await one.nothing_lost()
        await one.stopped(service)


async def all_connections(server: Server) -> list[asyncpg.Connection]:
    """Takes every connection that the server gives."""
    taken: list[asyncpg.Connection] = []
    while True:
        try:
            taken.append(await asyncpg.connect(server.dsn()))
        except asyncpg.TooManyConnectionsError:
            return taken


@pytest.mark.long
async def test_too_many_connections(cluster: Path) -> None:
    """Others took every connection: the service waits and says so; one run ends with 69; nothing is lost."""
    async with (
        server_on_a_copy(cluster, max_connections="12", superuser_reserved_connections="0") as server,
        looked_into(server.dsn()) as database,
        clinic(database, latency_s=0.5) as one,
    ):
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            await database.pool.close()
            service.process.send_signal(signal.SIGSTOP)  # so that it takes none of those that the restart freed
            await server.restart("fast")
            hoard = await all_connections(server)
            service.process.send_signal(signal.SIGCONT)
            await service.says("write_back_waits", "Postgres cannot do this now: sorry, too many clients already")
            await refused(one.env, "run", "--once", exit_code=69, words="sorry, too many clients already")
            for conn in hoard:
                await conn.close()
            async with looked_into(server.dsn()) as after:
                await Clinic(after, one.sandbox, one.env).nothing_lost()
            await one.stopped(service)
