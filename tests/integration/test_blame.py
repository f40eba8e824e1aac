"""Whose fault it is: one change's, the API's, or nobody's. Real processes against servers that fail on purpose."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment, services, stop
from tests.support.rawserver import Request, answer, raw_server
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings

IMPATIENT = {
    "RETRY__QUICK_ATTEMPTS": "1",
    "RETRY__MAX_ATTEMPTS": "4",
    "RETRY__BACKOFF_BASE_S": "0.01",
    "RETRY__BACKOFF_MAX_S": "0.05",
}


async def _stumbles_over_666(request: Request, writer: asyncio.StreamWriter) -> None:
    poisoned = json.loads(request.body).get("room_id") == 666
    writer.write(answer("500 Oops") if poisoned else answer("200 OK", b'{"id": "x"}'))
    await writer.drain()
    writer.close()


@pytest.mark.long
async def test_what_the_api_stumbles_over_parks_alone(database: Database) -> None:
    """A change that makes the API answer 500 takes no neighbour of its fold with it."""
    for body in ({"note": "before"}, {"room_id": 666}, {"note": "after"}, {"confirmed": True}):
        await database.write("app_1", body)

    async def settled() -> bool:
        await database.write("app_other", {"note": "accepted in between"})
        await command("run", "--once", env=env)
        return "pending" not in await database.states()

    async with raw_server(_stumbles_over_666) as server:
        env = environment(database.dsn, server.base_url, IMPATIENT)
        await eventually(settled, limit_s=60, what="nothing is pending")
    parked = await database.rows("SELECT changes, last_error FROM caspen_sync.outbox WHERE state = 'parked'")
    assert [json.loads(row["changes"]) for row in parked] == [{"room_id": 666}]
    assert "gave up after" in parked[0]["last_error"]


@pytest.mark.long
async def test_an_api_that_is_down_parks_nothing(database: Database) -> None:
    """However long everything fails: nobody is charged, not even those who found out, and nothing parks."""
    for number in range(12):
        await database.write(f"app_{number:02}", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), faults={"http_503": 1.0}, limit=10_000)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, IMPATIENT | {"ACCOUNTS__DEFAULT__CONCURRENCY": "1"})
        async with services(1, env) as (worker,):
            await eventually(lambda: len(sandbox.log) > 12, limit_s=60)
            assert await stop(worker) == 0
        assert await database.states() == {"pending": 12}
        assert await database.value("SELECT sum(attempts) FROM caspen_sync.outbox") == 0
        sandbox.set_faults({})

        async def drained() -> bool:
            return (await command("run", "--once", env=env)).exit_code == 0

        await eventually(drained, what="the API is back")
    assert await database.states() == {"synced": 12}


async def test_an_id_that_would_change_the_path_costs_no_request(database: Database) -> None:
    """An appointment id of dots parks, named, before anything is sent."""
    await database.write("..", {"note": NOTE})
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        ended = await command("run", "--once", env=environment(database.dsn, sandbox.base_url))
        assert (ended.exit_code, len(sandbox.log)) == (65, 1)
    assert await database.value("SELECT last_error FROM caspen_sync.outbox WHERE state = 'parked'") == (
        "breaks the API's contract: appointment_id: would change the path of the request"
    )


async def test_a_log_that_nobody_reads_stops_no_work(database: Database) -> None:
    """With stderr on a full device everything is sent all the same, and the exit code is right."""
    for number in range(5):
        await database.write(f"app_{number}", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        process = await asyncio.create_subprocess_shell(
            f"{sys.executable} -m worker run --once --log-level debug 2>/dev/full",
            env=environment(database.dsn, sandbox.base_url),
        )
        assert await process.wait() == 0
    assert await database.states() == {"synced": 5}


@pytest.mark.long
async def test_someone_who_uses_up_the_budget_does_not_keep_a_cron_run_for_ever(database: Database) -> None:
    """429 with a short Retry-After, again and again: the run ends with work left."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("429 Too Many Requests", b"", "Retry-After: 1"))
        await writer.drain()
        writer.close()

    await database.write("app_1", {"note": NOTE})
    async with raw_server(respond) as server:
        ended = await command("run", "--once", env=environment(database.dsn, server.base_url), limit_s=30)
    assert ended.exit_code == 75
    assert await database.value("SELECT attempts FROM caspen_sync.outbox") == 0


@pytest.mark.long
async def test_what_was_given_up_in_an_outage_comes_back(database: Database) -> None:
    """One change and nothing else, and an API that is away for longer than the change has attempts: it parks, as it
    must, and is pending again by itself once the API has been heard of."""
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), faults={"http_503": 1.0}, limit=10_000)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, IMPATIENT)

        async def parked() -> bool:
            await command("run", "--once", env=env)
            return await database.states() == {"parked": 1}

        await eventually(parked, limit_s=60, what="the change is given up")
        sandbox.set_faults({})
        await database.write("app_2", {"note": NOTE})

        async def drained() -> bool:
            await command("run", "--once", env=env)
            return await database.states() == {"synced": 2}

        await eventually(drained, limit_s=60, what="both are synced")


@pytest.mark.long
async def test_what_the_api_stumbles_over_does_not_come_back(database: Database) -> None:
    """Given up at last although others were accepted in between, it stays parked."""
    await database.write("app_1", {"room_id": 666})
    async with raw_server(_stumbles_over_666) as server:
        env = environment(database.dsn, server.base_url, IMPATIENT)

        async def parked() -> bool:
            await database.write("app_2", {"note": NOTE})
            await command("run", "--once", env=env)
            return "parked" in await database.states()

        await eventually(parked, limit_s=60, what="the change is given up")
        for _ in range(3):
            await database.write("app_2", {"note": NOTE})
            assert (await command("run", "--once", env=env)).exit_code == 0
    assert (await database.states())["parked"] == 1
    assert await database.value("SELECT count(*) FROM caspen_sync.run_up") == 0
