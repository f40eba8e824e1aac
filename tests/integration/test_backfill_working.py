"""Waiting for a backfill: a process works it off beside any service, and says how it ended."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.support.audit import assert_no_overlap
from tests.support.backfilling import MODULE, backfill
from tests.support.database import Database
from tests.support.processes import DIRECT, TOKEN, Ended, command, environment, services, start
from tests.support.rawserver import Request, answer, raw_server
from tests.support.servers import Server, looked_into
from tests.support.waiting import eventually
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings

OPEN = SandboxSettings(tokens=(TOKEN,), limit=1000)
# The next probe is far off, as it is in life.
LONG_PROBES = {"RETRY__PROBE_BASE_S": "60", "RETRY__PROBE_MAX_S": "60"}


async def waited(env: dict[str, str], name: str = "may.csv", *accounts: str) -> Ended:
    return await command(name, *accounts, env=env, module=MODULE)


async def test_all_of_it_is_worked_off(database: Database) -> None:
    """Each change is sent, live ones too; the result is a sentence on stdout, and how far it was stands on stderr."""
    await backfill(database, "may.csv", lines=60)
    await database.write("app_live", {"note": "today's"})
    async with Sandbox(OPEN) as sandbox:
        ended = await waited(environment(database.dsn, sandbox.base_url))
        assert len(sandbox.log) == 61
    assert (ended.exit_code, ended.stdout) == (0, "60 of 60 changes of may.csv are synced\n")
    assert ended.stderr.splitlines()[-1].startswith("caspen-sync: may.csv: 60 of 60 changes (100 %)")
    assert await database.states() == {"synced": 61}


async def test_nothing_is_pending(database: Database) -> None:
    """A backfill that is done ends at once, and costs no request."""
    await backfill(database, "may.csv", lines=1)
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'synced', finished_at = now()")
    async with Sandbox(OPEN) as sandbox:
        ended = await waited(environment(database.dsn, sandbox.base_url))
        assert sandbox.log == []
    assert (ended.exit_code, ended.stdout) == (0, "1 of 1 change of may.csv is synced\n")


@pytest.mark.long
async def test_parked(database: Database) -> None:
    """Changes of this backfill that are parked make it 65; those of others do not."""
    await backfill(database, "may.csv", lines=3)
    await backfill(database, "june.csv", lines=2, first=10)
    await database.pool.execute(
        "UPDATE caspen_sync.outbox SET changes = $1 WHERE appointment_id = 'app_1'",
        f'{{"room_id": {NO_SUCH_ROOM}}}',
    )
    async with Sandbox(OPEN) as sandbox:
        env = environment(database.dsn, sandbox.base_url)
        ended = await waited(env)
        june = await waited(env, "june.csv")
    assert (ended.exit_code, ended.stdout) == (65, "2 of 3 changes of may.csv are synced, 1 parked\n")
    assert "1 change of may.csv is parked; see caspen-sync parked list" in ended.stderr
    assert (june.exit_code, june.stdout) == (0, "2 of 2 changes of june.csv are synced\n")


@pytest.mark.long
async def test_beside_a_service(database: Database) -> None:
    """Both share the budget, of which the reserve stays free: the API never says 429, and what it leaves is used."""
    await backfill(database, "may.csv", lines=50)
    settings = {
        "ACCOUNTS__DEFAULT__RATE_LIMIT": "20",
        "ACCOUNTS__DEFAULT__LIVE_RESERVE": "0.25",
        "ACCOUNTS__DEFAULT__CONCURRENCY": "4",
    }
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=20, window_s=1)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, settings)
        async with services(1, env):
            ended = await waited(env)
        assert {entry.http_status for entry in sandbox.log} == {200}
        assert_no_overlap(sandbox.log)
        workers = await database.rows("SELECT DISTINCT worker FROM caspen_sync.attempt")
        assert len(workers) == 2
        assert len(sandbox.log) == 50
    assert (ended.exit_code, ended.stdout) == (0, "50 of 50 changes of may.csv are synced\n")


@pytest.mark.long
async def test_a_service_does_the_rest(database: Database) -> None:
    """What another process sends counts as much: it ends when that is done."""
    await backfill(database, "may.csv", lines=40)
    settings = {"ACCOUNTS__DEFAULT__RATE_LIMIT": "10", "ACCOUNTS__DEFAULT__RATE_WINDOW_S": "1"}
    async with Sandbox(OPEN) as sandbox:
        env = environment(database.dsn, sandbox.base_url, settings)
        process = await start("may.csv", env=env | {"CASPEN_SYNC_ACCOUNTS__DEFAULT__CONCURRENCY": "1"}, module=MODULE)
        await eventually(lambda: sandbox.log, what="a request")
        async with services(1, env):
            out, _ = await process.communicate()
        assert (process.returncode, out.decode()) == (0, "40 of 40 changes of may.csv are synced\n")
        assert len(await database.rows("SELECT DISTINCT worker FROM caspen_sync.attempt")) == 2


@pytest.mark.parametrize(
    "how", [signal.SIGINT, *(pytest.param(one, marks=pytest.mark.long) for one in (signal.SIGTERM, signal.SIGHUP))]
)
async def test_interrupted(database: Database, how: signal.Signals) -> None:
    """One signal, also that of a terminal that was closed: the requests on the wire finish and are written back, the
    rest stays pending, and it is said how to go on. Then it goes on."""
    await backfill(database, "may.csv", lines=12)
    settings = {"ACCOUNTS__DEFAULT__RATE_LIMIT": "4", "ACCOUNTS__DEFAULT__RATE_WINDOW_S": "60"}
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), latency_s=0.3)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, settings)
        process = await start("may.csv", env=env, module=MODULE)
        await eventually(lambda: len(sandbox.log) == 4, what="four requests, which is all")
        process.send_signal(how)
        out, err = await process.communicate()
        assert process.returncode == 75
        assert out.decode() == "4 of 12 changes (33.3 %) of may.csv are done\n"
        assert (
            "interrupted; 8 changes of may.csv are left: run the same command again, or leave it to a running service; "
            "caspen-sync backfill status may.csv"
        ) in err.decode()
        assert await database.states() == {"synced": 4, "pending": 8}
        assert await database.value("SELECT count(*) FROM caspen_sync.queue WHERE leased_until IS NOT NULL") == 0
        await database.pool.execute("UPDATE caspen_sync.rate_slot SET free_at = now()")
        assert (await waited(env | {"CASPEN_SYNC_ACCOUNTS__DEFAULT__RATE_WINDOW_S": "0.5"})).exit_code == 0
        assert len(sandbox.log) == 12


async def test_a_second_signal_stops_at_once(database: Database) -> None:
    """It does not wait for an answer that may take long; what was on the wire is left to its lease."""
    await backfill(database, "may.csv", lines=2)

    arrived: list[Request] = []

    async def hold(request: Request, _: asyncio.StreamWriter) -> None:
        arrived.append(request)
        await asyncio.Event().wait()

    async with raw_server(hold) as server:
        env = environment(database.dsn, server.base_url, {"API__TIMEOUT_S": "30"})
        process = await start("may.csv", env=env, module=MODULE)
        await eventually(lambda: len(arrived) == 2, what="both requests")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            _, err = await process.communicate()
    assert process.returncode == 75
    said = err.decode()
    assert "caspen-sync: stopped at once; what was on the wire is sent again when its lease ends; " in said
    assert "of may.csv are left: run the same command again" in said


@pytest.mark.long
async def test_a_refused_token(database: Database) -> None:
    """77, once the API has refused it, and nothing is parked; how to mend it and how to go on are said."""
    await backfill(database, "may.csv", lines=3)
    async with Sandbox(SandboxSettings(tokens=("another",))) as sandbox:
        ended = await waited(environment(database.dsn, sandbox.base_url, LONG_PROBES))
    assert ended.exit_code == 77
    assert "account default is paused: the API refused its token" in ended.stderr
    assert "3 changes of may.csv are left: run the same command again" in ended.stderr
    assert await database.states() == {"pending": 3}


@pytest.mark.long
async def test_one_account_of_several_is_refused(database: Database) -> None:
    """The others are worked off first; an account that the backfill is not in is left alone. Then it is 77."""
    await backfill(database, "may.csv", lines=30)
    await backfill(database, "may.csv", lines=5, account="north")
    await database.write("app_1", {"note": "elsewhere"}, account="south")
    async with Sandbox(OPEN) as sandbox:
        settings = LONG_PROBES | {"ACCOUNTS__NORTH__TOKEN": "withdrawn-one", "ACCOUNTS__SOUTH__TOKEN": TOKEN}
        settings |= {"ACCOUNTS__DEFAULT__RATE_LIMIT": "10"}  # which takes a few looks
        ended = await waited(environment(database.dsn, sandbox.base_url, settings), "may.csv", "default", "north")
    assert ended.exit_code == 77
    assert ended.stdout == "30 of 35 changes (85.7 %) of may.csv are done\n"
    assert "account north is paused: the API refused its token" in ended.stderr
    rows = await database.rows("SELECT account, state, count(*) FROM caspen_sync.outbox GROUP BY 1, 2 ORDER BY 1")
    assert [tuple(row) for row in rows] == [("default", "synced", 30), ("north", "pending", 5), ("south", "pending", 1)]


@pytest.mark.long
async def test_a_token_that_was_replaced(database: Database) -> None:
    """A pause that an older token earned is no reason to give up: the new one is tried at once."""
    await backfill(database, "may.csv", lines=3)
    async with Sandbox(OPEN) as sandbox:
        env = environment(database.dsn, sandbox.base_url, LONG_PROBES)
        assert (await waited(env | {"CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN": "withdrawn-one"})).exit_code == 77
        assert (await waited(env)).exit_code == 0


async def test_paused_by_hand(database: Database) -> None:
    """75, and by which command it goes on."""
    await backfill(database, "june.csv", lines=2)
    async with Sandbox(OPEN) as sandbox:
        env = environment(database.dsn, sandbox.base_url)
        assert (await command("pause", "default", "--reason", "audit", env=env)).exit_code == 0
        ended = await waited(env, "june.csv")
    assert ended.exit_code == 75
    assert "account default is paused by hand (root@" in ended.stderr
    assert "caspen-sync resume default; 2 changes of june.csv are left" in ended.stderr


@pytest.mark.long
async def test_everything_is_rejected(database: Database) -> None:
    """A wrong base URL pauses the account instead of parking the backfill: 75, and the question whether it is right."""
    await backfill(database, "may.csv", lines=40)

    async def nowhere(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("404 Not Found", b'{"message": "not found"}', "Content-Type: application/json"))
        await writer.drain()

    async with raw_server(nowhere) as server:
        ended = await waited(environment(database.dsn, server.base_url, LONG_PROBES))
    assert ended.exit_code == 75
    assert "the API rejects everything" in ended.stderr
    assert "is api.base_url right?" in ended.stderr
    assert await database.states() == {"pending": 40}


@pytest.mark.long
async def test_an_api_that_is_away_is_waited_for(database: Database) -> None:
    """It goes on when the API is back, and the lines say meanwhile what is waited for."""
    await backfill(database, "may.csv", lines=30)
    sandbox = Sandbox(OPEN)
    await sandbox.start()
    env = environment(database.dsn, sandbox.base_url, {"ACCOUNTS__DEFAULT__CONCURRENCY": "1"})
    port = int(sandbox.base_url.rsplit(":", 1)[1].split("/")[0])
    await sandbox.stop()
    process = await start("may.csv", env=env, module=MODULE)
    reading = asyncio.ensure_future(process.communicate())
    await eventually(
        lambda: database.value("SELECT 1 FROM caspen_sync.account WHERE pause_kind = 'down'"), what="a pause"
    )
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, port=port)):
        out, _ = await reading
    assert (process.returncode, out.decode()) == (0, "30 of 30 changes of may.csv are synced\n")


@pytest.mark.long
async def test_somebody_cancels_it(database: Database) -> None:
    """It ends, and says who did it; that is not 0, for not all of it is synced."""
    await backfill(database, "may.csv", lines=6)
    settings = {"ACCOUNTS__DEFAULT__RATE_LIMIT": "2", "ACCOUNTS__DEFAULT__RATE_WINDOW_S": "60"}
    async with Sandbox(OPEN) as sandbox:
        env = environment(database.dsn, sandbox.base_url, settings)
        process = await start("may.csv", env=env, module=MODULE)
        reading = asyncio.ensure_future(process.communicate())
        await eventually(lambda: len(sandbox.log) == 2, what="two requests")
        assert (await command("backfill", "cancel", "may.csv", env=env | {"SUDO_USER": "ann"})).exit_code == 0
        out, err = await reading
    assert process.returncode == 75
    assert out.decode().startswith("2 of 6 changes of may.csv are synced, 4 discarded; it was cancelled by ann@")
    assert "backfill may.csv was cancelled by ann@" in err.decode()


@pytest.mark.long
async def test_a_database_that_goes_away_is_waited_for(server: Server) -> None:
    """It restarts under the work, and the work goes on to its end."""
    async with looked_into(server.dsn()) as database, Sandbox(OPEN) as sandbox:
        await backfill(database, "may.csv", lines=30)
        settings = DIRECT | {"ACCOUNTS__DEFAULT__RATE_LIMIT": "10"}
        env = environment(server.dsn(), sandbox.base_url, settings)
        process = await start("may.csv", env=env, module=MODULE)
        reading = asyncio.ensure_future(process.communicate())
        await eventually(lambda: len(sandbox.log) >= 5, what="five requests")
        await server.restart("immediate")
        out, _ = await reading
        assert (process.returncode, out.decode()) == (0, "30 of 30 changes of may.csv are synced\n")
        assert await database.states() == {"synced": 30}
