"""An API that rejects everything is the account's fault, and bad changes are their own: told apart by what is
accepted in between."""

from __future__ import annotations

import json

import pytest

from tests.support.audit import assert_final_state, assert_settled
from tests.support.claims import registered
from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment, services, stop
from tests.support.waiting import eventually
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings

BAD = 40
SETTINGS = {
    "RETRY__PROBE_BASE_S": "0.05",
    "RETRY__PROBE_MAX_S": "0.2",
    "RETRY__REJECTED_AFTER": "10",
    "RETRY__BACKOFF_BASE_S": "0.05",
    "RETRY__BACKOFF_MAX_S": "0.1",
}


async def test_a_wrong_base_url_parks_nothing(database: Database) -> None:
    """404 for everything: what was parked at first is pending again, the run says 75 and names api.base_url. With the
    right one everything is synced."""
    for number in range(BAD):
        await database.write(f"app_{number:02}", {"note": "n"})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        wrong = environment(database.dsn, f"{sandbox.base_url}/wrong", SETTINGS)
        for _ in range(2):
            ended = await command("run", "--once", env=wrong)
            assert (ended.exit_code, "api.base_url" in ended.stderr) == (75, True), ended
            assert await database.states() == {"pending": BAD}
            assert await database.value("SELECT sum(attempts) FROM caspen_sync.outbox") == 0
        assert len(sandbox.log) <= 10 + 8 + 4
        right = environment(database.dsn, sandbox.base_url, SETTINGS)
        await eventually(lambda: _drained(right), what="the mended run drains")
        assert len(sandbox.appointments) == BAD
        await assert_settled(database)
    assert await database.states() == {"synced": BAD}
    assert await database.value("SELECT max(attempts) FROM caspen_sync.outbox") == 1


async def _drained(env: dict[str, str]) -> bool:
    return (await command("run", "--once", env=env)).exit_code == 0


@pytest.mark.parametrize(
    "good", ["later", *(pytest.param(good, marks=pytest.mark.long) for good in ("first", "in between", "last"))]
)
async def test_many_bad_changes_park_and_good_ones_are_synced(database: Database, good: str) -> None:
    """Forty appointments with the same mistake pause the account at most for as long as it takes to find one that is
    accepted; then they park, each by itself, and nothing goes round for ever."""
    names = [f"app_bad_{number:02}" for number in range(BAD)]
    fine = [f"app_good_{number}" for number in range(5)]
    if good in ("first", "in between"):
        names[20 * (good != "first") : 20 * (good != "first")] = fine
    elif good == "last":
        names += fine

    async def write(name: str) -> None:
        await database.write(name, {"room_id": NO_SUCH_ROOM if "bad" in name else 7})

    for name in names:
        await write(name)
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        async with services(2, environment(database.dsn, sandbox.base_url, SETTINGS)) as workers:
            if good == "later":
                await eventually(lambda: database.value("SELECT pauses > 1 FROM caspen_sync.account"))
                for name in fine:
                    await write(name)

            async def settled() -> bool:
                return await database.states() == {"parked": BAD, "synced": len(fine)}

            await eventually(settled, limit_s=20)
            for worker in workers:
                assert await stop(worker) == 0
        await assert_settled(database)
        await assert_final_state(database, sandbox.appointments)
        requests = len(sandbox.log)
        await database.write("app_good_0", {"note": "afterwards"})
        assert (await command("run", "--once", env=environment(database.dsn, sandbox.base_url))).exit_code == 0
        assert len(sandbox.log) == requests + 1
    assert requests <= 4 * BAD
    parked = await database.rows("SELECT changes, last_error, attempts FROM caspen_sync.outbox WHERE state = 'parked'")
    assert {json.loads(row["changes"])["room_id"] for row in parked} == {NO_SUCH_ROOM}
    assert {row["last_error"] for row in parked} == {"422 validation failed: room_id"}


async def test_the_next_probe_makes_good_what_a_crash_left_undone(database: Database) -> None:
    """The process that paused the account died before it brought back what was parked: a probe of another one does it,
    before anything is accepted that would end the run-up."""
    for number in range(12):
        await database.write(f"app_{number:02}", {"note": "n"})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, SETTINGS)
        await registered(database)
        await database.pool.execute(
            """
            UPDATE caspen_sync.account SET pause_kind = 'rejected', pause_reason = '404', pauses = 1,
                   paused_at = now(), paused_until = now();
            INSERT INTO caspen_sync.queue (account, appointment_id, lane, due_at, newest_id)
            SELECT account, appointment_id, lane, CASE WHEN id <= 10 THEN 'infinity' ELSE now() END, id
            FROM caspen_sync.outbox
            ON CONFLICT (account, appointment_id) DO UPDATE SET due_at = excluded.due_at;
            DELETE FROM caspen_sync.arrival;
            INSERT INTO caspen_sync.run_up
            SELECT account, 'rejected', appointment_id, '404', ARRAY[id], 1 FROM caspen_sync.outbox WHERE id <= 10;
            UPDATE caspen_sync.outbox SET state = 'parked', attempts = 1, finished_at = now() WHERE id <= 10
            """
        )
        ended = await command("run", "--once", env=env)
        assert ended.exit_code == 0, ended
    assert await database.states() == {"synced": 12}
    assert await database.value("SELECT max(attempts) FROM caspen_sync.outbox") == 1
