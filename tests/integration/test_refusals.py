"""A token that the API refuses, as an operator meets it: nobody is charged, few requests are spent, and a new token is
found, however it comes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment, services, stop
from tests.support.rawserver import Request, answer, raw_server
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings

OLD = "test-token-0000"
APPOINTMENTS = 12
WINDOW_S = 0.3
CONCURRENCY = 4


def settings(token_file: Path, **more: str) -> dict[str, str]:
    return {
        "ACCOUNTS__DEFAULT__TOKEN_FILE": str(token_file),
        "ACCOUNTS__DEFAULT__RATE_WINDOW_S": str(WINDOW_S),
        "ACCOUNTS__DEFAULT__CONCURRENCY": str(CONCURRENCY),
        **more,
    }


def with_file(database: Database, base_url: str, token_file: Path, **more: str) -> dict[str, str]:
    """The environment of a worker whose token is in a file."""
    env = environment(database.dsn, base_url, settings(token_file, **more))
    del env["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN"]
    return env


async def untouched(database: Database) -> None:
    assert await database.states() == {"pending": APPOINTMENTS}
    assert await database.value("SELECT sum(attempts) FROM caspen_sync.outbox") == 0


async def write(database: Database) -> None:
    for number in range(APPOINTMENTS):
        await database.write(f"app_{number:02}", {"note": "n"})


@pytest.mark.long
@pytest.mark.parametrize("healer", ["service", "once"])
async def test_a_refusal_of_ten_windows_costs_nobody_anything(database: Database, tmp_path: Path, healer: str) -> None:
    """A service runs, and so do cron jobs, which exit 77. The requests are bounded by the probes. A new token in the
    file heals all of it within a probe interval."""
    token_file = tmp_path / "token"
    token_file.write_text(OLD)
    await write(database)
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = with_file(database, sandbox.base_url, token_file)
        began = sandbox.now()
        async with services(1 if healer == "service" else 0, env) as workers:
            while sandbox.now() < began + 10 * WINDOW_S:
                ended = await command("run", "--once", env=env)
                assert ended.exit_code == 77, ended
                assert OLD not in ended.stderr
            # The first requests of each process, and then 0.2, 0.4, 0.8, 1 s apart.
            assert len(sandbox.log) <= 2 * CONCURRENCY + 4 + (sandbox.now() - began)
            assert {entry.http_status for entry in sandbox.log} == {401}
            await untouched(database)
            token_file.write_text(TOKEN)
            healed = sandbox.now()
            if healer == "once":
                assert (await command("run", "--once", env=env)).exit_code == 0
            await eventually(lambda: len(sandbox.appointments) == APPOINTMENTS, limit_s=10)
            assert max(entry.received_at for entry in sandbox.log) < healed + 3
            for worker in workers:
                assert await stop(worker) == 0
    assert await database.states() == {"synced": APPOINTMENTS}
    assert await database.value("SELECT max(attempts) FROM caspen_sync.outbox") == 1


async def test_sighup_reads_a_token_again_that_looks_the_same(database: Database, tmp_path: Path) -> None:
    """Same size, same inode, same time: no look at the file tells, and the next probe is far; SIGHUP reads it, and the
    new token is tried at once."""
    token_file = tmp_path / "token"
    token_file.write_text(OLD)
    stat = token_file.stat()
    await write(database)
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = with_file(database, sandbox.base_url, token_file, RETRY__PROBE_BASE_S="600", RETRY__PROBE_MAX_S="600")
        async with services(1, env) as (worker,):
            await eventually(lambda: database.value("SELECT paused_until FROM caspen_sync.account"))
            await eventually(lambda: not any(entry.in_flight for entry in sandbox.log))
            with token_file.open("r+") as file:
                file.write(TOKEN)
            os.utime(token_file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            again = token_file.stat()
            assert (again.st_mtime_ns, again.st_ino, again.st_size) == (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            await untouched(database)
            worker.send_signal(signal.SIGHUP)
            await eventually(lambda: len(sandbox.appointments) == APPOINTMENTS, limit_s=10)
            assert await stop(worker) == 0
    assert await database.states() == {"synced": APPOINTMENTS}


AT_THE_WRONG_MOMENT = """
import asyncio, os, pathlib, signal, worker.store
tell, calls = worker.store.Store.fresh_tokens, 0
async def fresh_tokens(self, fingerprints):
    global calls
    calls += 1
    found = await tell(self, fingerprints)
    if calls == 2:  # the refused one
        pathlib.Path(os.environ["TOKEN_FILE"]).write_text(os.environ["NEXT_TOKEN"])
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.05)
    return found
worker.store.Store.fresh_tokens = fresh_tokens
"""


async def test_sighup_while_the_refused_token_is_told(database: Database, tmp_path: Path) -> None:
    """A token that is read while the database hears of the one before is tried too."""
    token_file = tmp_path / "token"
    token_file.write_text(OLD)
    (tmp_path / "sitecustomize.py").write_text(AT_THE_WRONG_MOMENT, encoding="utf-8")
    await write(database)
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = with_file(database, sandbox.base_url, token_file, RETRY__PROBE_BASE_S="600", RETRY__PROBE_MAX_S="600")
        env |= {
            "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}",
            "TOKEN_FILE": str(token_file),
            "NEXT_TOKEN": TOKEN,
        }
        async with services(1, env) as (worker,):
            await eventually(lambda: len(sandbox.appointments) == APPOINTMENTS, limit_s=10)
            assert await stop(worker) == 0


async def test_a_token_that_was_replaced_meanwhile_is_tried_without_a_pause(database: Database, tmp_path: Path) -> None:
    """The file changes between a request and its 401: the request goes out again with the new token, and the account
    never pauses."""
    token_file, fresh = tmp_path / "token", tmp_path / "fresh"
    token_file.write_text(OLD)

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.headers["authorization"] == f"Bearer {TOKEN}":
            writer.write(answer("200 OK", b'{"id": "x"}'))
        else:
            fresh.write_text(TOKEN)
            fresh.replace(token_file)
            writer.write(answer("401 Unauthorized"))
        await writer.drain()

    await write(database)
    async with raw_server(respond) as server:
        ended = await command("run", "--once", env=with_file(database, server.base_url, token_file))
        refused = sum(request.headers["authorization"] != f"Bearer {TOKEN}" for request in server.requests)
    assert ended.exit_code == 0
    assert "account_paused" not in ended.stderr
    assert 1 <= refused <= CONCURRENCY
    assert await database.states() == {"synced": APPOINTMENTS}
    assert await database.value("SELECT max(attempts) FROM caspen_sync.outbox") == 1


@pytest.mark.long
async def test_one_appointment_that_is_forbidden_holds_up_nobody(database: Database) -> None:
    """403 for one id, always: the others are synced, those that come later too; it waits by itself, uncharged, is never
    parked, and does not keep the account paused."""

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        forbidden = request.path.endswith("app_00")
        writer.write(answer("403 Forbidden") if forbidden else answer("200 OK", b'{"id": "x"}'))
        await writer.drain()

    async def synced(count: int) -> bool:
        return (await database.states()).get("synced") == count

    await write(database)
    retry = {"RETRY__PROBE_BASE_S": "0.05", "RETRY__PROBE_MAX_S": "0.2", "RETRY__MAX_ATTEMPTS": "3"}
    async with raw_server(respond) as server:
        async with services(2, environment(database.dsn, server.base_url, retry)) as workers:
            await eventually(lambda: synced(APPOINTMENTS - 1))

            async def asked_again() -> bool:
                return sum(request.path.endswith("app_00") for request in server.requests) >= 6

            await eventually(asked_again)
            await database.write("app_later", {"note": "n"})
            await eventually(lambda: synced(APPOINTMENTS))
            assert await database.value("SELECT pause_kind FROM caspen_sync.account") is None
            for worker in workers:
                assert await stop(worker) == 0
        ended = await command("run", "--once", env=environment(database.dsn, server.base_url, retry))
    assert ended.exit_code == 75
    rows = await database.rows(
        "SELECT appointment_id, attempts, last_error FROM caspen_sync.outbox WHERE state = 'pending'"
    )
    assert [tuple(row) for row in rows] == [("app_00", 0, "403 token not allowed to do this")]
