"""Details that an adversarial review found no test for."""

from __future__ import annotations

from pathlib import Path

from tests.support.canary import NOTE
from tests.support.claims import accepted, limits, registered, settle, the_claim
from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment, services, stop
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings


async def test_a_slot_cools_for_window_and_guard(database: Database) -> None:
    """After an answer the slot rests for the window and the configured guard, not for the window alone."""
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(
            database.dsn,
            sandbox.base_url,
            {"ACCOUNTS__DEFAULT__RATE_WINDOW_S": "100", "ACCOUNTS__DEFAULT__RATE_GUARD_S": "50"},
        )
        assert (await command("run", "--once", env=env)).exit_code == 0
    rests_s = await database.value(
        "SELECT extract(epoch FROM max(free_at) - clock_timestamp())::float8 FROM caspen_sync.rate_slot"
    )
    assert 140 < rests_s <= 150


async def test_a_rotated_token_is_used_at_once(database: Database, tmp_path: Path) -> None:
    """A running service reads the token file again when it changed, without a signal."""
    token_file = tmp_path / "token"
    token_file.write_text("first")
    async with Sandbox(SandboxSettings(tokens=("first",))) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"ACCOUNTS__DEFAULT__TOKEN_FILE": str(token_file)})
        del env["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN"]
        async with services(1, env) as (worker,):
            await database.write("app_1", {"note": NOTE})
            await eventually(lambda: _synced(database, 1))
            sandbox.set_tokens(["second"])
            token_file.write_text("second")
            await database.write("app_2", {"note": NOTE})
            await eventually(lambda: _synced(database, 2))
            assert await stop(worker) == 0
        assert [entry.http_status for entry in sandbox.log] == [200, 200]


async def _synced(database: Database, count: int) -> bool:
    return (await database.states()).get("synced") == count


async def test_a_backfill_change_does_not_take_a_live_one_out_of_its_lane(database: Database) -> None:
    """An appointment that waits with a live change stays in the live lane when a backfill change arrives."""
    store = await registered(database)
    await database.write("app_1", {"note": "live"})
    await the_claim(store)
    await database.write("app_1", {"note": "backfill"}, lane="backfill")
    await store.take_in(["default"])
    assert await database.value("SELECT lane FROM caspen_sync.queue") == "live"


async def test_an_idle_appointment_takes_the_lane_of_what_arrives(database: Database) -> None:
    """Once its live change is settled, an appointment is of the lane of its next change."""
    store = await registered(database)
    await database.write("app_1", {"note": "live"})
    await settle(store, accepted(await the_claim(store)))
    await database.write("app_1", {"note": "backfill"}, lane="backfill")
    await store.take_in(["default"])
    assert await database.value("SELECT lane FROM caspen_sync.queue") == "backfill"


async def test_the_outlook_of_backfill_is_the_slot_behind_the_reserve(database: Database) -> None:
    """Backfill is ready when one slot more than the reserve is free, not when the first one is."""
    store = await registered(database, limits(60))
    await database.write("app_1", {"note": NOTE}, lane="backfill")
    await store.take_in(["default"])
    await database.pool.execute("UPDATE caspen_sync.rate_slot SET free_at = clock_timestamp() + slot * interval '10 s'")
    (outlook,) = await store.outlook(["default"])
    assert outlook.ready_in_s is not None
    reserve = 6  # a tenth of 60
    assert 10 * reserve < outlook.ready_in_s <= 10 * (reserve + 1)
