"""`parked retry`: an old change goes in at its old place, and overwrites nothing that is newer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.audit import assert_final_state, assert_no_overlap, assert_settled
from tests.support.claims import accepted, blocked, claim, ids, registered, settle, settlement, the_claim
from tests.support.database import Database
from tests.support.parking import BY, found, offline, park, parked, state, synced
from tests.support.processes import DIRECT, TOKEN, command, environment, services
from tests.support.waiting import eventually
from worker.merge import fold
from worker.parked import Retried, discard, retry
from worker.sandbox import Sandbox, SandboxSettings

OLD, NEW = "the older words", "the newer words"


def strict(**options: Any) -> Sandbox:
    """An API where no appointment is there yet: whatever is sent parks at once (404)."""
    return Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, strict=True, **options))


async def run_once(database: Database, sandbox: Sandbox, exit_code: int = 0, **settings: str) -> None:
    env = environment(database.dsn, sandbox.base_url, settings)
    assert (await command("run", "--once", "--log-level", "error", env=env)).exit_code == exit_code


async def retried(database: Database, *ids: int) -> list[Retried]:
    async with database.pool.acquire() as conn:
        return await retry(conn, await found(database, *ids), BY)


# -- from end to end ---------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_what_is_newer_is_left_out_and_said(database: Database) -> None:
    """A field that a newer synced change has set is not sent again; the dry run, `show` and the retry all say so."""
    async with strict() as sandbox:
        change = await database.write("app_1", {"note": OLD, "room_id": 7})
        await run_once(database, sandbox, 65)
        sandbox.appointments.add("app_1")
        await database.write("app_1", {"note": NEW, "vehicle_id": 3})
        await run_once(database, sandbox)

        ended = await command("parked", "retry", str(change), "--dry-run", env=offline(database))
        assert ended.stdout.startswith(f"change {change} of app_1: without note, which newer changes have set since\n")
        ended = await command("parked", "show", str(change), env=offline(database))
        assert "newer changes have set note since: a retry leaves that out" in ended.stdout
        ended = await command("parked", "retry", str(change), "--reason", "it is there now", env=offline(database))
        assert ended.stdout == (
            f"change {change} is pending again, at its old place, without note, which newer changes have set since\n"
        )
        await run_once(database, sandbox)

        assert [entry.body for entry in sandbox.log][2:] == [{"room_id": 7}]
        assert sandbox.appointments["app_1"]["note"] == NEW
        await assert_settled(database)
        await assert_final_state(database, sandbox.appointments)
    (row,) = await database.rows("SELECT change_id, action, reason, left_out FROM caspen_sync.intervention")
    assert tuple(row) == (change, "retry", "it is there now", ["note"])
    assert json.loads(await database.value("SELECT set_by FROM caspen_sync.appointment")) == {
        "note": change + 1,
        "vehicle_id": change + 1,
        "room_id": change,
    }


@pytest.mark.long
async def test_nothing_left(database: Database) -> None:
    """Newer changes have set all of it: it is discarded, nothing is sent, and the dry run and the retry say so."""
    async with strict() as sandbox:
        change = await database.write("app_1", {"note": OLD})
        await run_once(database, sandbox, 65)
        sandbox.appointments.add("app_1")
        await database.write("app_1", {"note": NEW})
        await run_once(database, sandbox)
        ended = await command("parked", "retry", "--all", "--dry-run", env=offline(database))
        assert ended.stdout.endswith(
            "0 changes would be sent again, 1 discarded, of which nothing is left; nothing was changed\n"
        )
        ended = await command("parked", "retry", str(change), env=offline(database))
        assert ended.stdout == (
            f"change {change}: newer changes have set note since; nothing is left to send, so it is discarded\n"
        )
        await run_once(database, sandbox)
        assert len(sandbox.log) == 2
    assert await database.states() == {"discarded": 1, "synced": 1}
    assert "superseded" in await database.value("SELECT last_error FROM caspen_sync.outbox WHERE id = $1", change)


@pytest.mark.long
async def test_the_newer_one_is_pending(database: Database) -> None:
    """Both go out as one request, folded in id order: the newer one wins where both speak."""
    async with strict() as sandbox:
        await database.write("app_1", {"note": OLD, "room_id": 7})
        await run_once(database, sandbox, 65)
        sandbox.appointments.add("app_1")
        await database.write("app_1", {"note": NEW})
        ended = await command("parked", "retry", "--appointment", "app_1", env=offline(database))
        assert "without" not in ended.stdout
        await run_once(database, sandbox)
        assert [entry.body for entry in sandbox.log][1:] == [{"note": NEW, "room_id": 7}]
        await assert_final_state(database, sandbox.appointments)
    assert await database.states() == {"synced": 2}


@pytest.mark.long
async def test_the_newer_one_is_on_the_wire(database: Database) -> None:
    """The old change waits for the answer, is sent after it, and leaves out what that has set."""
    async with strict() as sandbox:
        await database.write("app_1", {"note": OLD, "room_id": 7})
        await run_once(database, sandbox, 65)
        sandbox.appointments.add("app_1")
        await database.write("app_1", {"note": NEW})
        env = environment(database.dsn, sandbox.base_url, {"API__TIMEOUT_S": "10"})
        sandbox.set_latency(1.5)
        async with services(1, env):
            await eventually(lambda: len(sandbox.log) == 2 and sandbox.log[1].in_flight, what="the newer one is out")
            (one,) = await retried(database)
            assert (one.left_out, sandbox.log[1].in_flight) == ((), True)
            sandbox.set_latency(0)
            await eventually(lambda: state_is(database, {"synced": 2}), what="both are synced")
        assert [entry.body for entry in sandbox.log][1:] == [{"note": NEW}, {"room_id": 7}]
        assert_no_overlap(sandbox.log)
        await assert_final_state(database, sandbox.appointments)


async def test_an_idle_service_wakes_at_once(database: Database) -> None:
    """It polls once in ten minutes, so it is the retry that wakes it."""
    async with strict() as sandbox:
        change = await database.write("app_1", {"note": OLD})
        env = environment(database.dsn, sandbox.base_url, {"WORKER__POLL_S": "600"} | DIRECT)
        async with services(1, env):
            await eventually(lambda: state_is(database, {"parked": 1}), what="it parks")
            sandbox.appointments.add("app_1")
            assert (await command("parked", "retry", str(change), env=offline(database))).exit_code == 0
            await eventually(lambda: state_is(database, {"synced": 1}), what="it is synced")


async def test_attempts_count_anew(database: Database) -> None:
    """What was given up after its last attempt gets all its attempts again."""
    change = await database.write("app_1", {"note": OLD})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), faults={"http_503": 1.0})) as sandbox:
        settings = {"RETRY__MAX_ATTEMPTS": "2", "RETRY__QUICK_ATTEMPTS": "1", "RETRY__BACKOFF_BASE_S": "0.01"}

        async def until_parked() -> None:
            async with services(1, environment(database.dsn, sandbox.base_url, settings)):
                await eventually(lambda: state_is(database, {"parked": 1}), what="it is given up")

        await until_parked()
        assert (await retried(database, change))[0].discarded is False
        assert await database.value("SELECT attempts FROM caspen_sync.outbox") == 0
        await until_parked()
        assert len(sandbox.log) == 4
    error = await database.value("SELECT last_error FROM caspen_sync.outbox")
    assert error.startswith("gave up after 2 attempts")


async def state_is(database: Database, states: dict[str, int]) -> bool:
    return await database.states() == states


# -- with claims in hand -----------------------------------------------------------------------------------------------


async def test_a_claim_that_is_held(database: Database) -> None:
    """A retry while the appointment is leased takes nothing away from the lease, and the change is due after it. What
    it said when it was brought back is not what counts, but what was synced when it goes out."""
    old = await parked(database, "app_1", {"note": OLD, "room_id": 7})
    store = await registered(database)
    new = await database.write("app_1", {"note": NEW})
    held = await the_claim(store)
    assert ids(held) == [new]
    assert await retried(database, old) == [Retried(id=old, left_out=(), discarded=False)]
    assert await claim(store, 10) == []
    assert await settle(store, accepted(held)) == []
    after = await the_claim(store)
    assert (ids(after), fold(after.changes)) == ([old], {"room_id": 7})
    assert await settle(store, accepted(after)) == []
    last = json.loads(await database.value("SELECT set_by FROM caspen_sync.appointment"))
    assert last == {"note": new, "room_id": old}
    assert await database.value("SELECT last_change_id FROM caspen_sync.appointment") == new


async def test_an_answer_that_is_just_being_written_back(database: Database) -> None:
    """The retry waits for it, and says what it has set: with that, nothing is left."""
    old = await parked(database, "app_1", {"note": OLD})
    new = await synced(database, "app_1", {"vehicle_id": 7})
    (change,) = await found(database, old)
    async with database.pool.acquire() as settling, database.pool.acquire() as conn:
        async with settling.transaction():
            await settling.execute("SELECT FROM caspen_sync.queue FOR UPDATE")
            await settling.execute(
                "UPDATE caspen_sync.appointment SET set_by = jsonb_build_object('note', $1::int)", new
            )
            retrying = asyncio.create_task(retry(conn, [change], BY))
            await blocked(database, conn.get_server_pid())
        assert await retrying == [Retried(id=old, left_out=("note",), discarded=True)]


async def test_a_backoff_is_kept(database: Database) -> None:
    """A retry does not storm past the wait that the API's trouble has earned the appointment."""
    old = await parked(database, "app_1", {"note": OLD})
    store = await registered(database)
    await database.write("app_1", {"room_id": 7})
    await settle(store, settlement(await the_claim(store), due_in_s=600))
    due_at = await database.value("SELECT due_at FROM caspen_sync.queue")
    await retried(database, old)
    assert await database.value("SELECT due_at FROM caspen_sync.queue") == due_at
    assert await claim(store, 10) == []


@pytest.mark.parametrize("fate", ["parked", "discarded"])
async def test_newer_ones_that_were_not_accepted_do_not_count(database: Database, fate: str) -> None:
    """Only what the API took is protected: a newer change that is parked, or was given up, has set nothing."""
    old = await parked(database, "app_1", {"note": OLD})
    new = await database.write("app_1", {"note": NEW})
    await park(database, new)
    if fate == "discarded":
        async with database.pool.acquire() as conn:
            assert await discard(conn, await found(database, new), BY) == 1
    assert (await found(database, old))[0].superseded == ()
    assert await retried(database, old) == [Retried(id=old, left_out=(), discarded=False)]
    assert fold((await the_claim(await registered(database))).changes) == {"note": OLD}


async def test_retention_takes_no_protection_away(database: Database) -> None:
    """The newer changes are deleted from the outbox; what they have set is left out all the same."""
    old = await parked(database, "app_1", {"note": OLD, "room_id": 7})
    new = await synced(database, "app_1", {"note": NEW})
    await database.pool.execute("DELETE FROM caspen_sync.outbox WHERE id = $1", new)
    await database.pool.execute("DELETE FROM caspen_sync.attempt")
    assert (await found(database, old))[0].superseded == ("note",)
    assert await retried(database, old) == [Retried(id=old, left_out=("note",), discarded=False)]
    assert fold((await the_claim(await registered(database))).changes) == {"room_id": 7}


async def test_an_older_synced_change_takes_nothing(database: Database) -> None:
    """Only newer changes protect their fields."""
    await synced(database, "app_1", {"note": OLD})
    change = await parked(database, "app_1", {"note": NEW})
    assert await retried(database, change) == [Retried(id=change, left_out=(), discarded=False)]
    assert fold((await the_claim(await registered(database))).changes) == {"note": NEW}


async def test_several_of_one_appointment(database: Database) -> None:
    """Together they are one request, in id order, and each leaves out what is newer than itself."""
    first = await parked(database, "app_1", {"note": OLD, "room_id": 1})
    middle = await synced(database, "app_1", {"room_id": 2, "vehicle_id": 2})
    last = await parked(database, "app_1", {"note": NEW, "room_id": 3, "vehicle_id": 3})
    assert await retried(database) == [
        Retried(id=first, left_out=("room_id",), discarded=False),
        Retried(id=last, left_out=(), discarded=False),
    ]
    store = await registered(database)
    held = await the_claim(store)
    assert (ids(held), fold(held.changes)) == ([first, last], {"note": NEW, "room_id": 3, "vehicle_id": 3})
    await settle(store, accepted(held))
    set_by = json.loads(await database.value("SELECT set_by FROM caspen_sync.appointment"))
    assert (set_by, middle < last) == ({"note": last, "room_id": last, "vehicle_id": last}, True)


async def test_accounts_are_apart(database: Database) -> None:
    """The same appointment id in another account protects nothing, and its changes stay parked."""
    north = await parked(database, "app_1", {"note": OLD}, account="north")
    other = await parked(database, "app_1", {"note": OLD})
    await synced(database, "app_1", {"note": NEW})
    ended = await command("parked", "retry", "--account", "north", env=offline(database))
    assert ended.stdout == f"change {north} is pending again, at its old place\n"
    assert await state(database, other) == "parked"


async def test_two_people_at_once(database: Database) -> None:
    """Two retry and two discard the same changes at once: each change is dealt with, and written down, once."""
    changes = [await parked(database, f"app_{number % 3}", {"note": OLD}) for number in range(30)]
    both = await found(database, *changes)

    async def one(action: Any) -> int:
        async with database.pool.acquire() as conn:
            done = await action(conn, both, BY)
        return done if isinstance(done, int) else len(done)

    done = await asyncio.gather(*(one(action) for action in (retry, discard, retry, discard)))
    assert sum(done) == len(changes)
    states = await database.states()
    assert states.get("pending", 0) + states.get("discarded", 0) == len(changes)
    rows = await database.rows("SELECT change_id FROM caspen_sync.intervention ORDER BY change_id")
    assert [row["change_id"] for row in rows] == changes
