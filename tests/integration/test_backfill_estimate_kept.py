"""Whether it was right: the estimate beside the time that it took."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest

from tests.support.database import Database
from tests.support.processes import TOKEN, environment, services, stop
from tests.support.waiting import eventually
from worker import clock
from worker.backfill.estimate import estimate
from worker.config import AccountSettings
from worker.sandbox import Sandbox, SandboxSettings

LIMIT = 20
WINDOW_S = 2.0
SETTINGS = AccountSettings(rate_limit=LIMIT, rate_window_s=WINDOW_S, rate_guard_s=0.1, live_reserve=0.2)
LIVE_EVERY_S = 0.6
BACKFILL = 120


@pytest.mark.long
@pytest.mark.alone
async def test_it_takes_as_long_as_was_told(database: Database) -> None:
    """With a service at work and live changes coming as before, a backfill takes what the estimate said, to 15 %."""
    sandbox_settings = SandboxSettings(tokens=(TOKEN,), limit=LIMIT, window_s=WINDOW_S, latency_s=0.05)
    async with Sandbox(sandbox_settings) as sandbox, asyncio.TaskGroup() as beside:
        env = environment(
            database.dsn,
            sandbox.base_url,
            {
                "ACCOUNTS__DEFAULT__RATE_LIMIT": str(LIMIT),
                "ACCOUNTS__DEFAULT__RATE_WINDOW_S": str(WINDOW_S),
                "ACCOUNTS__DEFAULT__RATE_GUARD_S": "0.1",
                "ACCOUNTS__DEFAULT__LIVE_RESERVE": "0.2",
            },
        )
        async with services(1, env) as (service,):
            await database.write("app_first", {"note": None})
            await eventually(lambda: sandbox.log, limit_s=60)  # it has started
            live = beside.create_task(_live_changes(database))
            await eventually(lambda: len(sandbox.log) >= 30, limit_s=60)
            told = await estimate(database.workers, {"default": BACKFILL}, {"default": SETTINGS})
            before = clock.now()
            for number in range(BACKFILL):
                await database.write(f"app_{number}", {"note": None}, lane="backfill")
            await eventually(
                lambda: database.value(
                    "SELECT NOT EXISTS (SELECT FROM caspen_sync.outbox WHERE lane = 'backfill' AND state = 'pending')"
                ),
                limit_s=120,
            )
            took_s = clock.now() - before
            live.cancel()
            assert await stop(service) == 0
    assert told.seconds is not None
    print(
        f"told {told.seconds:.1f} s at {told.accounts[0].live_per_window} live requests a window, took {took_s:.1f} s"
    )
    assert told.accounts[0].live_per_window == pytest.approx(2.15 / LIVE_EVERY_S, rel=0.25)
    assert told.seconds == pytest.approx(took_s, rel=0.15)


async def _live_changes(database: Database) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        started_at = clock.now()
        for number in itertools.count():
            await database.write(f"app_live_{number}", {"note": None})
            due_at = started_at + number * LIVE_EVERY_S
            await eventually(lambda due_at=due_at: clock.now() >= due_at)  # type: ignore[misc]
