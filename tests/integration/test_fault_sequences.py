"""One fault after another, and faults in company: every account finds back by itself, and nobody pays for another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.processes import command, environment, services
from tests.support.rawserver import RawServer, Request, answer, raw_server
from tests.support.waiting import eventually

FINE = answer("200 OK", b'{"id": "x"}')
QUICK = {
    "RETRY__QUICK_ATTEMPTS": "1",
    "RETRY__REJECTED_AFTER": "5",
    "RETRY__BACKOFF_BASE_S": "0.01",
    "RETRY__BACKOFF_MAX_S": "0.05",
    "RETRY__PROBE_BASE_S": "0.05",
    "RETRY__PROBE_MAX_S": "0.2",
}


@asynccontextmanager
async def answering(judge: Callable[[Request], bytes]) -> AsyncIterator[RawServer]:
    """An API that answers each request as `judge` says."""

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(judge(request))
        await writer.drain()

    async with raw_server(respond) as server:
        yield server


def poisoned(request: Request) -> bool:
    return bool(json.loads(request.body).get("room_id") == 666)


@pytest.mark.long
async def test_a_refusal_then_a_wrong_address_then_fine(database: Database) -> None:
    """401, then 503, then 404 for all, 410 for all, and fine again: nothing stays parked, whatever came before, and the
    exit codes tell which it is."""
    status = "401 Unauthorized"
    for number in range(25):
        await database.write(f"app_{number:02}", {"note": NOTE})
    async with answering(lambda _: answer(status) if status else FINE) as server:
        env = environment(database.dsn, server.base_url, QUICK)
        for status, exit_code in (
            ("401 Unauthorized", 77),
            ("503 Service Unavailable", 77),
            ("404 Not Found", 75),
            ("410 Gone", 75),
        ):

            async def told(exit_code: int = exit_code) -> bool:
                return (await command("run", "--once", env=env)).exit_code == exit_code

            await eventually(told, limit_s=30, what=f"exit {exit_code} at {status}")
            for _ in range(3):
                await command("run", "--once", env=env)
            assert await database.states() == {"pending": 25}
        status = ""

        async def drained() -> bool:
            return (await command("run", "--once", env=env)).exit_code == 0

        await eventually(drained, limit_s=30, what="everything is synced")
    assert await database.states() == {"synced": 25}


@pytest.mark.long
async def test_deleted_appointments_do_not_switch_the_guard_off(database: Database) -> None:
    """Ten appointments that are gone park once another one is accepted; a wrong address right after that still pauses
    the account instead of parking everything, and when it is mended only those that are gone are parked."""
    wrong = False
    for number in range(10):
        await database.write(f"gone_{number}", {"note": NOTE})

    def judge(request: Request) -> bytes:
        return answer("404 Not Found") if wrong or "gone_" in request.path else FINE

    async with answering(judge) as server:
        env = environment(database.dsn, server.base_url, QUICK)

        async def parked(synced: int) -> bool:
            await command("run", "--once", env=env)
            return await database.states() == {"parked": 10, "synced": synced}

        await command("run", "--once", env=env)
        await database.write("app_good", {"note": NOTE})
        await eventually(lambda: parked(1), limit_s=30, what="those that are gone are parked")
        wrong = True
        for number in range(30):
            await database.write(f"app_{number}", {"note": NOTE})
        for _ in range(3):
            assert (await command("run", "--once", env=env)).exit_code == 75
        states = await database.states()
        assert states["pending"] >= 30
        assert states["synced"] == 1
        wrong = False
        await eventually(lambda: parked(31), limit_s=30, what="all but those that are gone are synced")


async def test_a_few_that_always_fail_do_not_hold_up_the_others(database: Database) -> None:
    """Three appointments that the API stumbles over are enough to take it for down; the others go all the same."""
    for number in range(3):
        await database.write(f"poison_{number}", {"room_id": 666})
    for number in range(20):
        await database.write(f"app_{number}", {"note": NOTE}, lane="backfill")
    async with answering(lambda request: answer("500 Oops") if poisoned(request) else FINE) as server:
        env = environment(database.dsn, server.base_url, QUICK | {"ACCOUNTS__DEFAULT__CONCURRENCY": "3"})
        async with services(1, env):

            async def synced() -> bool:
                return (await database.states()).get("synced") == 20

            await eventually(synced, limit_s=30, what="the others are synced")


@pytest.mark.long
async def test_what_is_given_up_twice_stays_parked(database: Database) -> None:
    """With hardly anything else to send, one that always fails is brought back once, in case that it was an outage; not
    again and again."""
    await database.write("poison", {"room_id": 666})
    async with answering(lambda request: answer("500 Oops") if poisoned(request) else FINE) as server:
        env = environment(database.dsn, server.base_url, QUICK | {"RETRY__MAX_ATTEMPTS": "3"})

        async def parked() -> bool:
            await command("run", "--once", env=env)
            return "pending" not in await database.states()

        for _ in range(4):
            await eventually(parked, limit_s=30, what="it is given up")
            await database.write("app_1", {"note": NOTE})
        await eventually(parked, limit_s=30, what="it is given up for good")
        requests = sum(map(poisoned, server.requests))
    assert requests == 6
    assert await database.states() == {"parked": 1, "synced": 4}
    assert await database.value("SELECT who FROM caspen_sync.intervention") == "caspen-sync"
    assert await database.value("SELECT count(*) FROM caspen_sync.run_up") == 0


@pytest.mark.long
async def test_a_person_s_word_is_not_overruled(database: Database) -> None:
    """What a person retried, and the API then rejected, is not brought back for the outage that it was given up in."""
    first = answer("503 Service Unavailable")
    await database.write("app_1", {"note": NOTE})
    async with answering(lambda request: first if "app_1" in request.path else FINE) as server:
        env = environment(database.dsn, server.base_url, QUICK | {"RETRY__MAX_ATTEMPTS": "1"})
        await command("run", "--once", env=env)
        assert await database.states() == {"parked": 1}
        first = answer("422 Unprocessable", b'{"errors": {"note": ["no"]}}')
        assert (await command("parked", "retry", "1", env=env)).exit_code == 0
        await command("run", "--once", env=env)
        await database.write("app_2", {"note": NOTE})
        await command("run", "--once", env=env)
        assert len(server.requests) == 3
    assert await database.states() == {"parked": 1, "synced": 1}


async def test_what_was_brought_back_in_the_same_run_is_not_parked(database: Database) -> None:
    """Exit 0, and no word of parked changes, when all is synced in the end."""
    asked = 0

    def judge(_: Request) -> bytes:
        nonlocal asked
        asked += 1
        return answer("503 Service Unavailable") if asked == 1 else FINE

    await database.write("app_1", {"note": NOTE})
    await database.write("app_2", {"note": NOTE})
    async with answering(judge) as server:
        settings = QUICK | {"RETRY__MAX_ATTEMPTS": "1", "ACCOUNTS__DEFAULT__CONCURRENCY": "1"}
        ended = await command(
            "run", "--once", "--log-level", "error", env=environment(database.dsn, server.base_url, settings)
        )
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert await database.states() == {"synced": 2}
