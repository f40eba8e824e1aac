"""Workers that are killed with -9 again and again, in the middle of everything."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from tests.chaos.seeds import seed_of_this_run
from tests.support.audit import (
    assert_accounted_for,
    assert_final_state,
    assert_id_order,
    assert_no_overlap,
    assert_settled,
    most_in_any_window,
)
from tests.support.changes import made_up_change
from tests.support.database import Database
from tests.support.pgbouncer import pgbouncer
from tests.support.processes import TOKEN, command, environment, start
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings

LIMIT = 60
WINDOW_S = 1.0
PROCESSES = 3


async def _write(database: Database, seed: int, appointments: range) -> None:
    """One writer: up to six changes for each of its appointments, some in one transaction, some rolled back."""
    chance = random.Random(seed + appointments.start)
    async with database.pool.acquire() as conn:
        for appointment in appointments:
            for number in range(1, chance.randint(1, 6) + 1):
                transaction = conn.transaction()
                await transaction.start()
                await database.write(f"app_{appointment:04}", made_up_change(chance, number), conn=conn)
                if chance.random() < 0.1:
                    await transaction.rollback()
                else:
                    await transaction.commit()


async def _keep_killing(env: dict[str, str], chance: random.Random, done: asyncio.Event) -> int:
    """Runs PROCESSES services and kills one after the other, each replaced at once; returns how many were killed."""
    processes = [await start("run", env=env) for _ in range(PROCESSES)]
    drains = [asyncio.create_task(process.communicate()) for process in processes]
    killed = 0
    try:
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.4, 1.2)):
                    await done.wait()
            victim = chance.randrange(PROCESSES)
            processes[victim].kill()
            killed += 1
            processes[victim] = await start("run", env=env)
            drains.append(asyncio.create_task(processes[victim].communicate()))
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        outputs = await asyncio.gather(*drains)
    assert not any(b"Traceback" in err for _, err in outputs)
    return killed


LIMITS = {
    "API__TIMEOUT_S": "1",
    "ACCOUNTS__DEFAULT__RATE_LIMIT": str(LIMIT),
    "ACCOUNTS__DEFAULT__RATE_WINDOW_S": str(WINDOW_S),
    "ACCOUNTS__DEFAULT__RATE_GUARD_S": "0.05",
}
FAULTS = {"http_503": 0.03, "reset_after": 0.03, "garbled": 0.03}


@pytest.mark.parametrize(
    ("appointments", "faults", "pooled"),
    [
        pytest.param(100, FAULTS, False, marks=pytest.mark.long, id="short"),
        pytest.param(300, {}, False, marks=pytest.mark.long, id="calm"),
        pytest.param(300, FAULTS, False, marks=pytest.mark.long, id="faulty"),
        pytest.param(300, FAULTS, True, marks=pytest.mark.long, id="pgbouncer"),
    ],
)
async def test_killed_workers_break_no_rule(
    database: Database, server_dsn: str, appointments: int, faults: dict[str, float], pooled: bool
) -> None:
    """Up to 6 changes for each appointment, 3 processes of which one is killed again and again: every rule holds."""
    seed = seed_of_this_run()
    settings = SandboxSettings(
        tokens=(TOKEN,), limit=LIMIT, window_s=WINDOW_S, latency_s=0.1, latency_jitter_s=0.05, faults=faults, seed=seed
    )
    with pgbouncer(server_dsn) if pooled else contextlib.nullcontext() as bouncer:
        async with Sandbox(settings) as sandbox:
            way = {"DATABASE__DSN": bouncer.dsn(database.dsn), "DATABASE__PGBOUNCER": "true"} if bouncer else {}
            env = environment(database.dsn, sandbox.base_url, LIMITS | way)
            await _check(database, sandbox, env, appointments, seed)


async def _check(database: Database, sandbox: Sandbox, env: dict[str, str], appointments: int, seed: int) -> None:
    done = asyncio.Event()
    killing = asyncio.create_task(_keep_killing(env, random.Random(seed), done))
    await asyncio.gather(*(_write(database, seed, range(share, appointments, 4)) for share in range(4)))

    async def few_left() -> bool:
        return int((await database.states()).get("pending", 0)) < appointments // 20

    await eventually(few_left, limit_s=90, every_s=0.2, what="nearly all changes are settled")
    done.set()
    killed = await killing

    async def drained() -> bool:
        ended = await command("run", "--once", env=env)
        assert ended.exit_code in (0, 75), ended
        return ended.exit_code == 0

    await eventually(drained, limit_s=60, what="a drain")
    assert killed >= 3
    await assert_settled(database)
    assert (await database.states()).keys() == {"synced"}
    await assert_final_state(database, sandbox.appointments)
    await assert_accounted_for(database, sandbox.log)
    assert_no_overlap(sandbox.log)
    assert_id_order(sandbox.log)
    assert most_in_any_window((entry.received_at for entry in sandbox.log), WINDOW_S) <= LIMIT
    assert not any(entry.throttled for entry in sandbox.log)
