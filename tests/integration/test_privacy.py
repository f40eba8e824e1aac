"""Rule 10 from outside: whatever goes wrong, nothing that a process says, shows or leaves behind holds a token or a
value of a body. What it says is searched by `tests.support.processes`, and the tables by the fixture `database`, as in
every test; here are the ways to make it say something."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import canary
from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment, services, start, stop
from tests.support.rawserver import Request, Respond, answer, closed_port, raw_server
from tests.support.waiting import eventually
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings
from worker.sandbox.faults import FAULT_NAMES

NOWHERE = f"http://127.0.0.1:{closed_port()}/v1"
# Python's own talkativeness: asyncio's debug mode, all warnings.
TALKATIVE = {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1"}
# The default run has one of each kind; the rest is long.
SHORT = {"http_503", "garbled", "422", "500", "200 that differs"}
OTHER_CODES = ("internal_error", "disk_full", "lock_not_available")
TRIED = "SELECT count(last_error) FROM caspen_sync.outbox"
RETRY = {"RETRY__MAX_ATTEMPTS": "2", "RETRY__QUICK_ATTEMPTS": "2", "API__TIMEOUT_S": "0.5"}


async def assert_discreet(database: Database) -> None:
    """No statement that Postgres shows to others holds a value: they are parameters."""
    ours = "application_name = 'caspen-sync' AND datname = current_database()"
    for row in await database.rows(f"SELECT query FROM pg_stat_activity WHERE {ours}"):
        canary.watch(row["query"], where="pg_stat_activity.query")


# -- whatever the API does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in FAULT_NAMES]
)
async def test_every_fault(database: Database, fault: str) -> None:
    """At debug level, with Python at its most talkative, the service and one run say nothing of what they carry."""
    for number in range(4):
        await database.write(f"app_{number}", {"note": f"{NOTE} {number}"})
    settings = SandboxSettings(tokens=(TOKEN,), faults={fault: 1.0}, slow_s=0.6, late_s=0.1)
    async with Sandbox(settings) as sandbox:
        env = environment(database.dsn, sandbox.base_url, RETRY) | TALKATIVE
        async with services(1, env, "--log-level", "debug") as (worker,):
            await eventually(lambda: database.value("SELECT count(*) > 1 FROM caspen_sync.attempt"), what="attempts")
            await assert_discreet(database)
            assert await stop(worker) == 0
        ended = await command("run", "--once", "--max-runtime", "3", "--log-level", "debug", env=env)
    assert '"event": "request"' in ended.stderr or '"event": "worker_stopped"' in ended.stderr


def quoting(status: str, wrap: Callable[[str], str]) -> Respond:
    """Answers with the request's own note and token in its words."""

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        quoted = f"{json.loads(request.body)['note']} {request.headers['authorization']}"
        writer.write(answer(status, wrap(quoted).encode(), f"X-Echo: {quoted}", f"Location: /{quoted}"))
        await writer.drain()

    return respond


HOSTILE = {
    "422": quoting("422 Unprocessable", lambda q: json.dumps({"message": q, "errors": {"note": [q], q: [q]}})),
    "422 of nothing": quoting("422 Unprocessable", lambda q: q),
    "400": quoting("400 Bad Request", lambda q: json.dumps({"message": q})),
    "401": quoting("401 Unauthorized", lambda q: json.dumps({"message": q})),
    "429": quoting("429 Too Many", lambda q: q),
    "500": quoting("500 Oops", lambda q: f"<html><h1>{q}</h1></html>"),
    "302": quoting("302 Found", lambda q: q),
    "404": quoting("404 Not Found", lambda q: json.dumps({"message": q})),
    "200 without a resource": quoting("200 OK", lambda q: json.dumps({"starts_at": q, "id": {"x": q}})),
    "200 that is not JSON": quoting("200 OK", lambda q: f"{{{q}"),
    "200 that cannot be stored": quoting("200 OK", lambda q: json.dumps({"id": "app_1", "note": f"{q}\0"})),
    "200 that differs": quoting("200 OK", lambda q: json.dumps({"id": "app_1", "note": q, "status": q, q: q})),
    "a status line": quoting(f"200 {NOTE}\r\n{NOTE}: {TOKEN}\r\nbroken {NOTE}", lambda q: q),
    "no HTTP": quoting(NOTE, lambda q: q),
}


@pytest.mark.parametrize(
    "hostile", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in HOSTILE]
)
async def test_an_answer_that_quotes_the_request(database: Database, hostile: str) -> None:
    """Neither the log nor the tables that people read repeat it."""
    await database.write("app_1", {"note": NOTE})
    async with raw_server(HOSTILE[hostile]) as server:
        env = environment(database.dsn, server.base_url, RETRY) | TALKATIVE
        await command("run", "--once", "--max-runtime", "3", "--log-level", "debug", env=env)
        assert server.requests
        async with services(1, env, "--log-level", "debug", "--log-format", "console") as (worker,):
            await eventually(lambda: database.value("SELECT count(*) FROM caspen_sync.worker"), what="a worker")
            await assert_discreet(database)
            assert await stop(worker) == 0


async def test_bodies_that_break_the_contract(database: Database) -> None:
    """Every field with a wrong value: the errors name the fields and reasons, so that one knows what to mend."""
    wrong = ["location_id", "client_id", "case_id", "room_id", "confirmed", "starts_at", "resource_ids"]
    for field in wrong:
        await database.write("app_1", {field: NOTE})
    await database.write("app_1", {"note": NOTE * 40})
    await database.write("app_1", {"note": [NOTE], "resource_ids": [{"x": NOTE}]})
    await database.write("app_2", {"note": NOTE, "room_id": NO_SUCH_ROOM})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(database.dsn, sandbox.base_url)
        ended = await command("run", "--once", "--log-level", "debug", env=env)
    assert ended.exit_code == 65
    assert all(f"{field}: " in ended.stderr for field in wrong)


# -- whatever the database does --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["insufficient_privilege", *(pytest.param(code, marks=pytest.mark.long) for code in OTHER_CODES)]
)
async def test_a_trigger_that_quotes_a_body(database: Database, code: str) -> None:
    """A clinic's own trigger on the synced state fails with a note in its words: they are not repeated."""
    await database.pool.execute(
        f"""
        CREATE FUNCTION quote_it() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE '% is not welcome', NEW.note USING ERRCODE = '{code}'; END $$;
        CREATE TRIGGER quotes BEFORE INSERT OR UPDATE ON caspen_sync.appointment
            FOR EACH ROW EXECUTE FUNCTION quote_it();
        """
    )
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"API__TIMEOUT_S": "0.5"})
        async with services(1, env, "--log-level", "debug") as (worker,):
            await eventually(lambda: len(sandbox.log), what="a request")
            await stop(worker)


async def test_a_fault_of_ours(database: Database) -> None:
    """An error that nobody thought of: 70, and where it was, to be reported; not its message."""
    await database.pool.execute(
        """
        CREATE FUNCTION quote_it() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'Mrs Canary coughs' USING ERRCODE = 'data_exception'; END $$;
        CREATE TRIGGER quotes BEFORE INSERT ON caspen_sync.worker FOR EACH ROW EXECUTE FUNCTION quote_it();
        """
    )
    await database.write("app_1", {"note": NOTE})
    ended = await command("run", "--once", "--log-level", "error", env=environment(database.dsn, NOWHERE))
    assert ended.exit_code == 70
    first, *places = ended.stderr.splitlines()
    assert "please report" in first
    assert "DataError" in places[0]
    assert any("worker/store.py:" in place for place in places)


def files_in(folder: Path) -> list[Path]:
    """All of them."""
    return list(folder.iterdir())


def shown(pid: int) -> dict[str, str]:
    """What any user of the host may read of a process, by the files of /proc."""
    files = [Path(f"/proc/{pid}/{name}") for name in ("cmdline", "comm", "stat", "status", "limits")]
    return {str(file): file.read_text(encoding="utf-8") for file in (*files, *Path(f"/proc/{pid}/task").glob("*/comm"))}


# -- what others see of a process ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["environment", "file"])
async def test_what_the_process_list_shows(database: Database, tmp_path: Path, by: str) -> None:
    """Neither the command line nor the name of a running service holds the token."""
    env = environment(database.dsn, NOWHERE)
    if by == "file":
        (tmp_path / "token").write_text(TOKEN)
        del env["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN"]
        env["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN_FILE"] = str(tmp_path / "token")
    await database.write("app_1", {"note": NOTE})
    async with services(1, env) as (worker,):
        await eventually(lambda: database.value(TRIED), what="a request that fails")
        for name, text in shown(worker.pid).items():
            canary.watch(text, where=name)
        assert await stop(worker) == 0


async def test_a_crash_leaves_no_core(database: Database, tmp_path: Path) -> None:
    """Where core dumps are on, a crash leaves none, and faulthandler's dump holds places only."""
    env = environment(database.dsn, NOWHERE) | {"PYTHONFAULTHANDLER": "1", "PYTHONPATH": str(Path.cwd())}
    await database.write("app_1", {"note": NOTE})
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$0" -m worker run', sys.executable),
        env=env,
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    await eventually(lambda: database.value(TRIED), what="a request that fails")
    limits = shown(process.pid)[f"/proc/{process.pid}/limits"].splitlines()
    process.send_signal(signal.SIGABRT)
    _, err = await process.communicate()
    canary.watch(err.decode(), where="faulthandler's dump")
    assert process.returncode == -signal.SIGABRT
    assert b"Fatal Python error" in err
    (core,) = (line.split() for line in limits if line.startswith("Max core file size"))
    assert core[4] in ("0", "1")
    assert files_in(tmp_path) == []


async def test_an_argument_that_may_be_a_token() -> None:
    """An option that there is not is named, what was given with it is not."""
    for args in (["--token", TOKEN], [f"--token={TOKEN}"], [TOKEN]):
        ended = await command("run", *args)
        assert ended.exit_code == 64
        assert "unrecognized arguments" in ended.stderr
        assert ("--token" in ended.stderr) == (len(args) == 2 or args[0].startswith("--"))


async def test_a_log_that_says_what_is_wrong(database: Database) -> None:
    """Discretion must not hide an outage: why and where stays in the log."""
    await database.write("app_1", {"note": NOTE})
    process = await start("run", "--log-level", "info", env=environment(database.dsn, NOWHERE))
    output = asyncio.create_task(process.communicate())
    await eventually(lambda: database.value(TRIED), what="a request that fails")
    await stop(process)
    _, err = await output
    assert b"Connection refused" in err
