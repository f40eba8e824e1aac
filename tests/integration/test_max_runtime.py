"""`run --once --max-runtime S`: it ends on the second, whatever is slow."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping

import pytest

from tests.support.dark import proxy_to
from tests.support.database import Database
from tests.support.processes import DIRECT, TOKEN, Ended, command, environment, services
from tests.support.servers import Server, looked_into
from tests.support.waiting import eventually
from worker.runtime import ENDING_S, FIRST_GUESS_S, Runtime
from worker.sandbox import Sandbox, SandboxSettings
from worker.signals import WRITE_BACK_S

NOTE = "a note"


async def timed(seconds: float, env: Mapping[str, str]) -> Ended:
    """A run, which is to end within its time and, on a busy machine, hardly a second more."""
    began_at = time.monotonic()
    ended = await command("run", "--once", "--max-runtime", str(seconds), env=env)
    took_s = time.monotonic() - began_at
    assert took_s < seconds + 1.5
    return ended


@pytest.mark.long
@pytest.mark.alone
async def test_a_run_with_work_left(database: Database) -> None:
    """Where answers are quick, no request is cut off: what was sent is written back, nothing stays leased; exit 75."""
    for number in range(100):
        await database.write(f"app_{number}", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, latency_s=0.1)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"ACCOUNTS__DEFAULT__CONCURRENCY": "2"})
        ended = await timed(3.0, env)
        assert ended.exit_code == 75
        assert (await database.states())["synced"] == len(sandbox.log) < 100
    assert await database.value("SELECT count(*) FROM caspen_sync.queue WHERE leased_until IS NOT NULL") == 0


@pytest.mark.long
@pytest.mark.alone
async def test_a_request_that_would_last_longer_is_cut_off(database: Database) -> None:
    """It counts as every other that was not answered: the appointment rests, the attempt is written down, exit 75."""
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, latency_s=15)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"API__TIMEOUT_S": "20"})
        ended = await timed(2.0, env)
        assert ended.exit_code == 75
        assert len(sandbox.log) == 1
    attempts = await database.rows("SELECT outcome, error, duration_ms < 2000 AS cut FROM caspen_sync.attempt")
    assert [(row["outcome"], row["cut"]) for row in attempts] == [("unknown", True)]
    row = (await database.rows("SELECT leased_until, due_at - now() AS rests FROM caspen_sync.queue"))[0]
    assert row["leased_until"] is None
    assert row["rests"].total_seconds() > 15


async def test_nothing_left_is_nothing_left(database: Database) -> None:
    """A run that is done in time ends with 0, and does not wait for its time to be over."""
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        began_at = time.monotonic()
        ended = await command("run", "--once", "--max-runtime", "50", env=environment(database.dsn, sandbox.base_url))
        assert (ended.exit_code, ended.stderr) == (0, "")
        assert time.monotonic() - began_at < 20


@pytest.mark.long
@pytest.mark.alone
async def test_a_database_that_does_not_answer() -> None:
    """Not even then does it take longer; exit 69, and one line."""
    async with proxy_to(9) as proxy:
        proxy.dark_for_new = True
        ended = await timed(1.0, environment(f"postgresql://x@127.0.0.1:{proxy.port}/x", "http://127.0.0.1:9/v1"))
    assert ended.exit_code == 69
    assert ended.stderr == "caspen-sync: database: no answer within --max-runtime\n"


@pytest.mark.long
@pytest.mark.alone
async def test_a_database_that_goes_dark_in_the_middle(server: Server) -> None:
    """Nor then, with requests on the wire: their outcomes are left to the leases; exit 75."""
    async with (
        looked_into(server.dsn()) as database,
        Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, latency_s=0.5)) as sandbox,
        proxy_to(server.port) as proxy,
    ):
        for number in range(20):
            await database.write(f"app_{number}", {"note": NOTE})
        running = asyncio.create_task(timed(3.0, environment(server.dsn(port=proxy.port), sandbox.base_url, DIRECT)))
        await eventually(lambda: any(entry.in_flight for entry in sandbox.log))
        proxy.go_dark()
        proxy.dark_for_new = True
        ended = await running
    assert ended.exit_code == 75
    assert "out of time" in ended.stderr


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.parametrize("signals", [1, 2])
async def test_a_drain_while_the_database_is_dark(server: Server, signals: int) -> None:
    """It ends within a request's time and WRITE_BACK_S; a second signal ends it at once. Exit 75, and systemd's
    TimeoutStopSec is not needed."""
    timeout_s = 3.0
    async with (
        looked_into(server.dsn()) as database,
        Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, latency_s=1.0)) as sandbox,
        proxy_to(server.port) as proxy,
    ):
        for number in range(20):
            await database.write(f"app_{number}", {"note": NOTE})
        env = environment(server.dsn(port=proxy.port), sandbox.base_url, DIRECT | {"API__TIMEOUT_S": str(timeout_s)})
        async with services(1, env) as (worker,):
            await eventually(lambda: any(entry.in_flight for entry in sandbox.log))
            proxy.go_dark()
            proxy.dark_for_new = True
            began_at = time.monotonic()
            for number in (signal.SIGTERM, signal.SIGINT)[:signals]:
                worker.send_signal(number)
            async with asyncio.timeout(30):
                assert await worker.wait() == 75
            assert time.monotonic() - began_at < (timeout_s + WRITE_BACK_S + 2 if signals == 1 else 2)


def test_when_claims_end() -> None:
    """Before the first answer by a guess, then by twice the slowest, but never by more than a request may take, nor by
    more than a third of the run."""
    now = 1000.0
    runtime = Runtime(now + 50, timeout_s=8, now=lambda: now)
    assert runtime.requests_end_at == now + 50 - ENDING_S
    assert runtime.claims_for_s == pytest.approx(50 - ENDING_S - 2 * FIRST_GUESS_S)
    runtime.answered(3)
    runtime.answered(0.1)
    assert runtime.claims_for_s == pytest.approx(50 - ENDING_S - 6)
    runtime.answered(7)
    assert runtime.claims_for_s == pytest.approx(50 - ENDING_S - 8)
    now += 45
    assert runtime.claims_for_s < 0
    assert Runtime(now + 1, timeout_s=30, now=lambda: now).claims_for_s == pytest.approx(1 - 1 / 4 - 1 / 3)
