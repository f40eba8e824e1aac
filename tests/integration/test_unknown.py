"""What was sent and not answered, or not answered well: what can be known is known, and the rest does no harm."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from tests.support.audit import assert_no_overlap
from tests.support.canary import NOTE
from tests.support.claims import accepted, claim, registered, settle, the_claim
from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment, services, stop
from tests.support.settlements import LIMITS, RETRY, UNKNOWN
from tests.support.waiting import eventually
from worker import clock, policy
from worker.outcome import Exchange
from worker.policy import Sent
from worker.sandbox import Sandbox, SandboxSettings

TIMEOUT_S = 1.5
PATIENT = {"API__TIMEOUT_S": str(TIMEOUT_S), "RETRY__BACKOFF_BASE_S": "0.01", "RETRY__BACKOFF_MAX_S": "0.02"}
OLD, NEW = f"{NOTE}, the old one", f"{NOTE}, the new one"


def answered(log: list[Any], status: int) -> list[Any]:
    return [entry for entry in log if entry.http_status == status]


@pytest.mark.long
async def test_a_late_old_value_lands_before_the_new_one(database: Database) -> None:
    """A gateway says 504 while the API is still at it: a newer change waits for as long as a request may take, so that
    what lands late lands first."""
    settings = SandboxSettings(tokens=(TOKEN,), faults={"late_apply": 1.0}, late_s=0.8 * TIMEOUT_S)
    async with Sandbox(settings) as sandbox, services(1, environment(database.dsn, sandbox.base_url, PATIENT)):
        await database.write("app_1", {"note": OLD})
        await eventually(lambda: answered(sandbox.log, 504), what="the old one is sent")
        sandbox.set_faults({})
        await database.write("app_1", {"note": NEW})

        async def synced() -> bool:
            return await database.states() == {"synced": 2}

        await eventually(synced, what="both are synced")
        first, second = sandbox.log
        assert first.applied_at is not None
        assert second.applied_at is not None
        assert first.applied_at < second.received_at
        assert second.received_at - first.answered_at >= TIMEOUT_S
        assert sandbox.appointments["app_1"]["note"] == NEW
    assert_no_overlap(sandbox.log)


@pytest.mark.long
async def test_no_answer_at_all_rests_too(database: Database) -> None:
    """A request that timed out, or whose connection was reset after it was sent, may be done yet: the appointment rests
    for another timeout, others go on meanwhile."""
    settings = SandboxSettings(tokens=(TOKEN,), faults={"reset_after": 1.0})
    async with Sandbox(settings) as sandbox, services(1, environment(database.dsn, sandbox.base_url, PATIENT)):
        await database.write("app_1", {"note": OLD})
        await eventually(lambda: sandbox.log and sandbox.log[0].answered_at, what="the first is cut off")
        sandbox.set_faults({})
        await database.write("app_1", {"note": NEW})
        await database.write("app_2", {"note": NEW})

        async def synced() -> bool:
            return await database.states() == {"synced": 3}

        await eventually(synced, what="all are synced")
    first, other, second = sandbox.log
    assert (other.appointment, second.appointment) == ("app_2", "app_1")
    assert second.received_at - first.answered_at >= TIMEOUT_S
    attempts = await database.rows(
        "SELECT http_status, outcome FROM caspen_sync.attempt WHERE appointment_id = 'app_1' ORDER BY id"
    )
    assert [tuple(row) for row in attempts] == [(None, "unknown"), (200, "synced")]


@pytest.mark.parametrize("fault", ["cut", "garbled", "no_content"])
async def test_done_and_not_told_is_sent_again(database: Database, fault: str) -> None:
    """200 with half a body, 200 with nonsense, 204: the same body goes out again, and the synced state is what the API
    says in the end."""
    settings = SandboxSettings(tokens=(TOKEN,), faults={fault: 1.0})
    async with Sandbox(settings) as sandbox, services(1, environment(database.dsn, sandbox.base_url)) as (worker,):
        await database.write("app_1", {"note": NEW})
        await eventually(lambda: sandbox.log and sandbox.log[0].answered_at, what="the first is answered")
        sandbox.set_faults({})

        async def synced() -> bool:
            return await database.states() == {"synced": 1}

        await eventually(synced, what="it is synced")
        assert await stop(worker) == 0
    assert len({json.dumps(entry.body) for entry in sandbox.log}) == 1
    assert await database.value("SELECT note FROM caspen_sync.appointment") == NEW
    assert await database.value("SELECT attempts FROM caspen_sync.outbox") == len(sandbox.log)
    assert await database.value("SELECT count(*) FROM caspen_sync.attempt WHERE outcome = 'retry'") >= 1


@pytest.mark.long
@pytest.mark.parametrize(("rests_s", "kind"), [(-1, "manual"), (60, "manual"), (-1, "refused"), (60, "refused")])
async def test_an_appointment_that_rests_with_nothing_to_send_is_no_work(
    database: Database, rests_s: int, kind: str
) -> None:
    """Whatever its account is paused for: a later run has nothing to do."""
    store = await registered(database)
    await database.write("app_1", {"note": OLD})
    claimed = await the_claim(store)
    assert await settle(store, accepted(claimed)) == []
    await database.pool.execute("UPDATE caspen_sync.queue SET due_at = now() + make_interval(secs => $1::int)", rests_s)
    await database.pool.execute(
        "UPDATE caspen_sync.account SET paused_until = now() + interval '1 h', pause_kind = $1, pause_reason = '401'",
        kind,
    )
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        ended = await command("run", "--once", env=environment(database.dsn, sandbox.base_url))
    assert ended.exit_code == 0, ended.stderr


async def test_a_run_that_gives_up_leaves_no_work(database: Database) -> None:
    """The appointment rests, since the API may be at its last request still, and has nothing to send: that is 65."""
    settings = SandboxSettings(tokens=(TOKEN,), faults={"reset_after": 1.0})
    async with Sandbox(settings) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"API__TIMEOUT_S": "20", "RETRY__MAX_ATTEMPTS": "1"})
        await database.write("app_1", {"note": OLD})
        ended = await command("run", "--once", env=env)
    assert ended.exit_code == 65, ended.stderr
    assert await database.states() == {"parked": 1}
    assert await database.value("SELECT count(*) FROM caspen_sync.queue WHERE due_at < 'infinity'") == 1


@pytest.mark.parametrize(("status", "rests"), [(None, True), (503, False)])
async def test_what_follows_a_change_that_was_given_up_waits_too(
    database: Database, status: int | None, rests: bool
) -> None:
    """The last request that a change may have was not answered, so it parks; the API may be at it still, and its old
    value must not land after a newer one. Where the API has answered, the newer one goes out at once."""
    store = await registered(database, timeout_s=LIMITS.timeout_s)
    await database.write("app_1", {"note": OLD})
    claimed = await the_claim(store)
    outcome = UNKNOWN if status is None else RETRY
    now = clock.now()
    sent = Sent(slot=claimed.slot, exchange=Exchange(outcome=outcome, started_at=now, ended_at=now))
    limits = replace(LIMITS, max_attempts=1)
    assert await settle(store, policy.settle(claimed, claimed.changes, [sent], limits, random.Random(1))) == []
    await database.write("app_1", {"note": NEW})
    await store.take_in(["default"])
    assert len(await claim(store)) == (0 if rests else 1)
    sql = "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM caspen_sync.queue"
    assert not rests or LIMITS.timeout_s - 10 < await database.value(sql) <= LIMITS.timeout_s
