"""An API that is down, in each way in which that shows: one probe at a time, nobody charged, everything synced when
it is back."""

from __future__ import annotations

import itertools

import pytest

from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment, services, stop
from tests.support.rawserver import closed_port
from tests.support.waiting import eventually
from worker.sandbox import Entry, Sandbox, SandboxSettings

APPOINTMENTS = 20
PROBE_MAX_S = 0.8
SETTINGS = {
    "API__TIMEOUT_S": "0.5",
    "RETRY__QUICK_ATTEMPTS": "1",
    "RETRY__BACKOFF_BASE_S": "0.01",
    "RETRY__BACKOFF_MAX_S": "0.02",
    "RETRY__PROBE_BASE_S": "0.1",
    "RETRY__PROBE_MAX_S": str(PROBE_MAX_S),
    "RETRY__MAX_ATTEMPTS": "4",
    "ACCOUNTS__DEFAULT__CONCURRENCY": "4",
}


async def write(database: Database) -> None:
    for number in range(APPOINTMENTS):
        await database.write(f"app_{number:02}", {"note": "n"})


async def untouched(database: Database) -> None:
    assert await database.states() == {"pending": APPOINTMENTS}
    assert await database.value("SELECT sum(attempts) FROM caspen_sync.outbox") == 0


def gaps(log: list[Entry]) -> list[float]:
    """From each request's start to the next one's."""
    return [later.received_at - earlier.received_at for earlier, later in itertools.pairwise(log)]


@pytest.mark.long
@pytest.mark.parametrize("fault", ["http_503", "http_502", "reset_before", "slow"])
async def test_an_outage_is_probed_by_one_at_a_time(database: Database, fault: str) -> None:
    """Three services: after the first failures never two requests at once, further and further apart up to the longest
    interval; a cron job exits 75. When the API is back, all is synced, and nobody paid for the outage."""
    await write(database)
    sandbox_settings = SandboxSettings(tokens=(TOKEN,), limit=1000, faults={fault: 1.0}, slow_s=2, latency_s=0.01)
    async with Sandbox(sandbox_settings) as sandbox:
        env = environment(database.dsn, sandbox.base_url, SETTINGS)
        paused = "SELECT pause_kind FROM caspen_sync.account"
        async with services(3, env) as workers:
            await eventually(lambda: database.value(f"{paused} WHERE pauses > 1"), what="a probe failed")
            on_the_wire = len(sandbox.log)
            await eventually(lambda: len(sandbox.log) >= on_the_wire + 5, limit_s=15)
            ended = await command("run", "--once", env=env)
            assert (ended.exit_code, "the API is down" in ended.stderr) == (75, True), ended
            await untouched(database)
            probes = sandbox.log[on_the_wire - 1 :]
            apart = gaps(probes)
            assert min(apart) > 0.08, apart
            assert PROBE_MAX_S * 0.9 < max(apart) < PROBE_MAX_S + 1.5, apart
            assert apart[-1] > apart[0], apart
            for earlier, later in itertools.pairwise(probes):
                # One that was given up after its timeout is over for us, whatever the server still does with it.
                assert min(earlier.answered_at or 1e12, earlier.received_at + 0.6) <= later.received_at
            sandbox.set_faults({})
            await eventually(lambda: len(sandbox.appointments) == APPOINTMENTS, limit_s=10)
            assert await database.value(paused) is None
            for worker in workers:
                assert await stop(worker) == 0
    assert await database.states() == {"synced": APPOINTMENTS}
    assert await database.value("SELECT max(attempts) FROM caspen_sync.outbox") == 1
    assert await database.value("SELECT count(*) FROM caspen_sync.run_up") == 0


async def test_an_api_that_cannot_be_reached_is_told_apart(database: Database) -> None:
    """Nothing listens: the run that tried says 69; one that finds the account paused for it says 75 and why. When the
    API listens, everything is synced."""
    await write(database)
    port = closed_port()
    env = environment(database.dsn, f"http://127.0.0.1:{port}/v1", SETTINGS | {"RETRY__PROBE_BASE_S": "1"})
    ended = await command("run", "--once", env=env)
    assert (ended.exit_code, "out of reach" in ended.stderr) == (69, True), ended
    ended = await command("run", "--once", env=env)
    assert ended.exit_code in (69, 75)
    await untouched(database)
    assert await database.value("SELECT count(*) FROM caspen_sync.attempt") == 0
    assert await database.value("SELECT pause_kind FROM caspen_sync.account") == "down"
    async with (
        Sandbox(SandboxSettings(tokens=(TOKEN,), port=port, limit=1000)) as sandbox,
        services(1, env) as (worker,),
    ):
        await eventually(lambda: len(sandbox.appointments) == APPOINTMENTS, limit_s=10)
        assert await stop(worker) == 0
    assert await database.states() == {"synced": APPOINTMENTS}
