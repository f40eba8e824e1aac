"""Faults that last beside the work: each is said once, and the work goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.outages import watched
from tests.support.processes import TOKEN, command, environment, services, stop
from tests.support.waiting import eventually
from worker.complaints import Complaints
from worker.sandbox import Sandbox, SandboxSettings


class Heard:
    """A log that is remembered."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str | None, str]] = []

    def warning(self, event: str, *, account: str | None, error: str) -> None:
        self.said.append((event, account, error))


def test_what_lasts_is_said_once() -> None:
    """Once for each account, again when it changes, and again when it had been over."""
    heard = Heard()
    complaints = Complaints(heard)
    for error in ("a", "a", "b", "b"):
        complaints.about("x", "north", error)
        complaints.about("x", "south", "a")
    complaints.over("x", "north")
    complaints.about("x", "north", "b")
    assert heard.said == [("x", "north", "a"), ("x", "south", "a"), ("x", "north", "b"), ("x", "north", "b")]


async def test_a_token_file_that_is_gone(database: Database, tmp_path: Path) -> None:
    """The last token is used on, and one line says so, however many requests follow."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"ACCOUNTS__DEFAULT__TOKEN_FILE": str(token_file)})
        del env["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN"]
        async with watched(env) as service:
            await service.says("worker_started")
            token_file.unlink()
            for number in range(20):
                await database.write(f"app_{number}", {"note": NOTE})
                await eventually(lambda number=number: len(sandbox.appointments) > number)
            assert len(service.events("token_unreadable")) == 1
            assert await stop(service.process) == 0


async def test_a_process_that_cannot_say_that_it_is_alive(database: Database) -> None:
    """It works, and says why nobody sees it."""
    await database.pool.execute("ALTER TABLE caspen_sync.worker RENAME TO worker_away")
    async with (
        Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox,
        watched(environment(database.dsn, sandbox.base_url)) as service,
    ):
        await service.says("heartbeat_failed", "run caspen-sync migrate")
        await database.write("app_1", {"note": NOTE})
        await eventually(lambda: len(sandbox.appointments) == 1)
        assert await stop(service.process) == 0
    await database.pool.execute("ALTER TABLE caspen_sync.worker_away RENAME TO worker")


@pytest.mark.long
@pytest.mark.parametrize("written_at", ["infinity", "-infinity", "294000-01-01"])
async def test_a_change_of_no_time(database: Database, written_at: str) -> None:
    """Whatever its owner says of when a change was written, it goes out, and so do the others; `status` can be read."""
    await database.write("app_1", {"note": NOTE})
    for account in ("default", "nobodys"):
        await database.pool.execute(
            "INSERT INTO caspen_sync.outbox (account, appointment_id, changes, created_at) "
            f"VALUES ($1, 'app_2', '{{\"room_id\": 7}}', '{written_at}')",
            account,
        )
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = environment(database.dsn, sandbox.base_url)
        async with services(1, env) as (worker,):
            await eventually(lambda: len(sandbox.appointments) == 2)
            seen = await command("status", "--json", env=env)
            assert seen.exit_code == 0, seen.stderr
            assert [one["account"] for one in json.loads(seen.stdout)["unregistered"]] == ["nobodys"]
            assert await stop(worker) == 0
