"""A database that is there and says no: closed, renamed, made anew, another password, another schema."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.database import Database, with_database
from tests.support.outages import PASSWORD, clinic, refused, watched
from tests.support.processes import DIRECT
from tests.support.roles import user_with
from tests.support.servers import Server, looked_into
from worker.migrate import known_migrations, migrate

NEWEST = known_migrations()[-1].number


@contextlib.asynccontextmanager
async def administrator(database: Database) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """A connection to another database of the same server, and the name of this one."""
    conn = await asyncpg.connect(with_database(database.dsn, "postgres"))
    try:
        yield conn, urlsplit(database.dsn).path.removeprefix("/")
    finally:
        await conn.close()


async def send_away(admin: asyncpg.Connection, name: str) -> None:
    """Ends every session of the database."""
    await admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


async def rename(admin: asyncpg.Connection, name: str, new_name: str) -> None:
    """Renames a database whose users keep coming back."""
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await send_away(admin, name)
    await admin.execute(f'ALTER DATABASE "{name}" RENAME TO "{new_name}"')
    await admin.execute(f'ALTER DATABASE "{new_name}" ALLOW_CONNECTIONS true')


@pytest.mark.long
async def test_a_database_that_is_closed(database: Database) -> None:
    """ALLOW_CONNECTIONS false with requests on the wire: the service waits and says so, one run ends with 69, and
    everything is written once it is open again."""
    async with clinic(database, latency_s=0.5, **DIRECT) as one, administrator(database) as (admin, name):
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await send_away(admin, name)
            await service.says("write_back_waits", "is not currently accepting connections")
            await refused(one.env, "run", "--once", exit_code=69, words="is not currently accepting connections")
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            await one.nothing_lost()
            await one.stopped(service)


@pytest.mark.long
async def test_a_database_that_is_renamed(database: Database) -> None:
    """The service waits and says what Postgres says, one run ends with 78, and everything is written once the database
    has its name back."""
    words = f'database: Postgres refused: database "{urlsplit(database.dsn).path[1:]}" does not exist'
    async with clinic(database, latency_s=0.5) as one, administrator(database) as (admin, name):
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            await rename(admin, name, f"{name}_away")
            await service.says("write_back_waits", words)
            await refused(one.env, "run", "--once", exit_code=78, words=words)
            await rename(admin, f"{name}_away", name)
            await one.nothing_lost()
            await one.stopped(service)


@pytest.mark.long
async def test_a_database_that_is_made_anew(database: Database, template: str) -> None:
    """Dropped and made again under a running service, which then knows nothing of its accounts: it works on there."""
    async with clinic(database, **DIRECT) as one, administrator(database) as (admin, name):
        await one.write(2)
        async with watched(one.env) as service:
            await one.nothing_lost()
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            await service.says("database_waited_for", f'Postgres refused: database "{name}" does not exist')
            await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
            await one.write(3, note=2)
            await one.all_synced()
            assert service.events("accounts_registered_again")
            await one.stopped(service)


@pytest.mark.long
async def test_a_schema_that_is_dropped(database: Database) -> None:
    """Dropped under a running service, which waits and names the mend; migrated again, it works on."""
    async with clinic(database) as one:
        await one.write(2)
        async with watched(one.env) as service:
            await one.nothing_lost()
            await database.pool.execute("DROP SCHEMA caspen_sync CASCADE")
            await service.says("database_waited_for", "database: the schema is missing or incomplete: ")
            await service.says("database_waited_for", "; run caspen-sync migrate")
            await refused(
                one.env, "run", "--once", exit_code=78, words="no schema caspen_sync; run caspen-sync migrate"
            )
            async with database.pool.acquire() as conn:
                await migrate(conn)
            await one.write(3, note=2)
            await one.all_synced()
            await one.stopped(service)


@pytest.mark.long
async def test_another_schema_under_a_running_service(database: Database) -> None:
    """While an update is rolled out, the schema changes under services that still run: they work on for as long as
    their statements do. What starts is refused with 78."""
    async with clinic(database) as one, watched(one.env) as service:
        await service.says("listening")
        await database.value("INSERT INTO caspen_sync.migration VALUES ($1, 'later')", NEWEST + 1)
        await one.write(3)
        await one.nothing_lost()
        newer = f"the schema is at migration {NEWEST + 1}, but this caspen-sync knows them up to {NEWEST}"
        await asyncio.gather(
            *(refused(one.env, *args, exit_code=78, words=newer) for args in COMMANDS),
            refused(one.env, "migrate", exit_code=78, words=newer),
        )
        await database.value("DELETE FROM caspen_sync.migration WHERE number >= $1", NEWEST)
        await one.write(3, note=2)
        await one.nothing_lost()
        older = f"the schema lacks migration {NEWEST}; run caspen-sync migrate"
        await asyncio.gather(*(refused(one.env, *args, exit_code=78, words=older) for args in COMMANDS))
        await one.stopped(service)


COMMANDS = (["run"], ["run", "--once"])


async def test_rights_that_are_missing(database: Database) -> None:
    """A user that may look, but not work: 78 at once and in one line, for the service too, and not after a minute."""
    await database.write("app_1", {"note": "change 1"})
    async with user_with(database, "caspen_sync_reader") as dsn, clinic(database, dsn=dsn) as one:
        async with asyncio.timeout(10):
            for args in (["run", "--log-level", "error"], ["run", "--once"]):
                await refused(one.env, *args, exit_code=78, words="as a member of caspen_sync_worker")


@pytest.mark.long
async def test_a_role_out_of_connections(database: Database) -> None:
    """CONNECTION LIMIT: the service waits and says so, one run ends with 69."""
    async with (
        user_with(database, "caspen_sync_worker") as dsn,
        clinic(database, latency_s=0.5, dsn=dsn) as one,
    ):
        role = urlsplit(dsn).username
        await one.write(8)
        async with watched(one.env) as service:
            await one.on_the_wire(8)
            await database.pool.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")

            await database.rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
            words = f'Postgres cannot do this now: too many connections for role "{role}"'
            await service.says("write_back_waits", words)
            await refused(one.env, "run", "--once", exit_code=69, words=words)
            await database.pool.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
            await one.nothing_lost()
            await one.stopped(service)


@pytest.mark.parametrize("kept_in", [pytest.param("settings", marks=pytest.mark.long), "file"])
async def test_a_password_that_is_changed(server: Server, tmp_path: Path, kept_in: str) -> None:
    """The service waits and says so, one run ends with 78. A password file that is brought up to date is read again; a
    password in the settings is not, and has to be changed back."""
    allow = server.data / "pg_hba.conf"
    allow.write_text("host all service 127.0.0.1/32 scram-sha-256\n" + allow.read_text("utf-8"), "utf-8")
    file = tmp_path / "pgpass"
    file.write_text(f"*:*:*:*:{PASSWORD}\n", "utf-8")
    file.chmod(0o600)
    async with looked_into(server.dsn()) as database:
        await database.pool.execute(
            f"SELECT pg_reload_conf(); CREATE ROLE service LOGIN PASSWORD '{PASSWORD}'; "
            "GRANT caspen_sync_worker TO service"
        )
        dsn = server.dsn("service" if kept_in == "file" else f"service:{PASSWORD}")
        async with clinic(database, latency_s=0.5, dsn=dsn) as one:
            one.env["PGPASSFILE"] = str(file)
            await one.write(8)
            async with watched(one.env) as service:
                await one.on_the_wire(8)
                await database.pool.execute(f"ALTER ROLE service PASSWORD '{PASSWORD}-new'")

                await database.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'service'")
                words = 'database: Postgres refused: password authentication failed for user "service"'
                await service.says("write_back_waits", words)
                await refused(one.env, "run", "--once", exit_code=78, words=words)
                if kept_in == "file":
                    file.write_text(f"*:*:*:*:{PASSWORD}-new\n", "utf-8")
                else:
                    await database.pool.execute(f"ALTER ROLE service PASSWORD '{PASSWORD}'")
                await one.nothing_lost()
                await one.stopped(service)


@pytest.mark.long
async def test_one_run_whose_database_is_renamed(database: Database) -> None:
    """The run ends with 78, but not before the outcomes that the API had accepted are written, which it waits for."""
    words = f'database: Postgres refused: database "{urlsplit(database.dsn).path[1:]}" does not exist'
    async with clinic(database, latency_s=1.0) as one, administrator(database) as (admin, name):
        await one.write(12)
        async with watched(one.env, "--once") as run:
            await one.on_the_wire(8)
            await rename(admin, name, f"{name}_away")
            await run.says("write_back_waits", words)
            await rename(admin, f"{name}_away", name)
            ended = await run.ends()
        assert ended.exit_code == 78
        assert words in run.one_line()
        assert await database.states() == {"synced": 8, "pending": 4}
        async with watched(one.env, "--once") as rest:
            assert (await rest.ends()).exit_code == 0
        await one.nothing_lost()


async def test_a_column_that_somebody_changed(database: Database) -> None:
    """A settle that does not fit the table waits, says so, and does not blame the answers: their changes would park."""
    column = "ALTER TABLE caspen_sync.appointment ALTER room_id TYPE "
    async with clinic(database) as one:
        await database.pool.execute(column + "bigint USING NULL")
        await one.write(3)
        async with watched(one.env) as service:
            await service.says("write_back_waits", 'column "room_id" is of type bigint but expression is of type text')
            assert await database.states() == {"pending": 3}
            await database.pool.execute(column + "text USING NULL")
            await one.nothing_lost()
            assert not service.events("answer_not_storable")
            await one.stopped(service)
