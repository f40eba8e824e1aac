"""`check` does no harm to a database, and a database that is away, dark or locked does none to it."""

from __future__ import annotations

import time

import asyncpg
import pytest

from tests.support.checking import holds, looked
from tests.support.dark import proxy_to
from tests.support.database import Database, with_database
from tests.support.rawserver import closed_port
from tests.support.roles import user_with
from tests.support.servers import Server
from worker.check import Finding, Verdict
from worker.check import database as checks
from worker.migrate import known_migrations

# Many commands, each a process: together they take most of a minute.
pytestmark = pytest.mark.long

FINE, BAD = Verdict.OK, Verdict.FAILED


async def test_nothing_can_be_written(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that tried to write would be refused by the server; the looks after it go on."""

    async def write(conn: asyncpg.Connection, _settings: object) -> list[Finding]:
        await conn.execute("DELETE FROM caspen_sync.migration")
        return []

    monkeypatch.setitem(checks.LOOKS, "clock", write)
    found = await looked(database.dsn)
    assert (found["clock"].verdict, found["accounts"].verdict) == (BAD, FINE)
    assert await database.value("SELECT count(*) FROM caspen_sync.migration") == len(known_migrations())


async def test_no_lock_is_waited_for_long(database: Database) -> None:
    """While a table is locked, what needs it says so within moments, and the rest is looked at."""
    async with database.pool.acquire() as conn, conn.transaction():
        await conn.execute("LOCK TABLE caspen_sync.arrival IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        found = await looked(database.dsn)
    holds(found["accounts"], BAD, "somebody holds a lock", "it was not done, try again")
    assert found["accounts"].exit_code == 69
    assert time.monotonic() - began < 8
    assert {name for name, one in found.items() if one.verdict is BAD} == {"accounts", "woken"}


async def test_a_look_that_takes_long(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends it, and the next looks go on."""

    async def sleep(conn: asyncpg.Connection, _settings: object) -> list[Finding]:
        await conn.execute("SET LOCAL statement_timeout = '50ms'")
        await conn.execute("SELECT pg_sleep(60)")
        return []

    monkeypatch.setitem(checks.LOOKS, "notify", sleep)
    found = await looked(database.dsn)
    holds(found["notify"], BAD, "canceling statement due to statement timeout", "check again")
    assert found["accounts"].verdict is FINE


@pytest.mark.parametrize("when", ["from the start", "in the middle"])
async def test_a_database_that_goes_dark(server: Server, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """It is given up when its time is over; what was seen until then stands, the rest is skipped."""
    monkeypatch.setattr(checks, "LIMIT_S", 1.0)
    async with proxy_to(server.port) as proxy:
        if when == "from the start":
            proxy.dark_for_new = True
            first = "database"
        else:
            first = "triggers"

            async def go_dark(conn: asyncpg.Connection, _settings: object) -> list[Finding]:
                proxy.dark_for_new = True
                proxy.go_dark()
                return [Finding("x", FINE, await conn.fetchval("SELECT 'x'"))]

            monkeypatch.setitem(checks.LOOKS, first, go_dark)
        began = time.monotonic()
        found = await looked(server.dsn(port=proxy.port))
        # By the clock: asyncpg swallows the cancellation by which asyncio.timeout would notice.
        assert time.monotonic() - began < 5
    holds(found[first], BAD, "no answer within 1 s", "does the network swallow it?")
    assert found[first].exit_code == 69
    skipped = list(checks.LOOKS)[list(checks.LOOKS).index(first) + 1 :]
    assert {found[name].said for name in skipped} == {"needs the database"}


@pytest.mark.parametrize(
    ("dsn", "said", "mend", "code"),
    [
        ("postgresql://u:p4ssw0rd2f9c@127.0.0.1:CLOSED/x", "cannot be reached", "does Postgres run", 69),
        ("nonsense://p4ssw0rd2f9c", "is no Postgres URI", "is database.dsn right", 78),
    ],
)
async def test_a_dsn_that_leads_nowhere(dsn: str, said: str, mend: str, code: int) -> None:
    """Nobody is there, or it is no address: why, and never the password."""
    found = (await looked(dsn.replace("CLOSED", str(closed_port()))))["database"]
    holds(found, BAD, said, mend)
    assert found.exit_code == code
    assert "p4ssw0rd2f9c" not in repr(found)


async def test_a_database_or_a_user_that_there_is_not(database: Database) -> None:
    """Postgres's own words, and where to look."""
    async with user_with(database, None) as gone:
        pass
    for dsn, said in ((with_database(database.dsn, "nowhere"), "nowhere"), (gone, "caspen_sync_test_")):
        found = (await looked(dsn))["database"]
        holds(found, BAD, said, "is database.dsn right")
        assert found.exit_code == 78
