"""Cancelling a backfill: what is pending is given up, what is on the wire decides itself, all else stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support.claims import accepted as taken
from tests.support.claims import claim, registered, settle, settlement, the_claim
from tests.support.database import Database
from tests.support.loading import NAME, accepted, loaded, moved, outbox
from tests.support.stale import stale_claim
from tests.support.waiting import eventually
from worker.backfill import cancelling
from worker.backfill.cancelling import Cancelled, cancel
from worker.backfill.registry import backfills
from worker.byhand import By
from worker.errors import BackfillTakenOver, DatabaseUnreachable
from worker.parked import Filter, discard, find, retry
from worker.store import Store

LINES = [(f"app_{number}", {"room_id": number}) for number in range(20)]


async def cancelled(database: Database, name: str = NAME) -> Cancelled:
    async with asyncio.timeout(30):
        return await cancel(database.workers, name, who="bob@desk", look_on=lambda _: None)


async def test_what_is_pending_is_discarded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps, whether the queue has taken it in or not; nothing is due afterwards, and nothing arrives."""
    monkeypatch.setattr(cancelling, "STEP", 7)
    store = await registered(database)
    await loaded(database, LINES[:10])
    await store.take_in(["default"])
    await loaded(database, LINES)
    assert (await cancelled(database)).discarded == 20
    assert await database.states() == {"discarded": 20}
    assert await store.take_in(["default"]) == {}
    assert not await claim(store, 10)
    (entry,) = await backfills(database.pool)
    assert (entry.state, entry.discarded, entry.synced, entry.cancelled_by) == ("cancelled", 20, 0, "bob@desk")


async def test_what_is_on_the_wire_is_waited_for(database: Database) -> None:
    """What the API takes is synced; the rest of its appointment's changes go."""
    store = await registered(database)
    await loaded(database, [("app_a", {"note": "1"}), ("app_a", {"note": "2"})])
    claimed = await the_claim(store, max_changes=1)
    cancelling_it = asyncio.create_task(cancelled(database))
    await eventually(lambda: database.value("SELECT cancelled_at FROM caspen_sync.backfill"), what="it to begin")
    assert await database.states() == {"pending": 2}
    assert not await settle(store, taken(claimed))
    assert (await cancelling_it).discarded == 1
    assert await outbox(database) == [("app_a", {"note": "1"}, "synced"), ("app_a", {"note": "2"}, "discarded")]
    assert not await claim(store, 10)


async def test_what_rests_keeps_its_time(database: Database) -> None:
    """It is discarded; but the API may still be working on its request, and a live change must not overtake that."""
    store = await registered(database)
    await loaded(database, LINES[:1])
    await settle(store, settlement(await the_claim(store), due_in_s=3600))
    assert (await cancelled(database)).discarded == 1
    await database.write("app_0", {"note": "live"})
    await store.take_in(["default"])
    assert not await claim(store, 10)
    await database.pool.execute("UPDATE caspen_sync.queue SET due_at = now()")
    (claimed,) = await claim(store, 10)
    assert [change.changes for change in claimed.changes] == [{"note": "live"}]


async def test_what_is_just_being_taken_in_holds_up_nothing(database: Database) -> None:
    """take_in locks arrivals first and the queue then; waiting for an arrival here, with a row of the queue in hand,
    would be a deadlock."""
    await registered(database)
    await loaded(database, LINES[:3])
    async with database.pool.acquire() as taking, taking.transaction():
        await taking.execute("SELECT FROM caspen_sync.arrival ORDER BY change_id LIMIT 1 FOR UPDATE")
        assert (await cancelled(database)).discarded == 3
        await taking.execute("SELECT FROM caspen_sync.queue FOR UPDATE")


async def test_other_changes_stay(database: Database) -> None:
    """Live ones, another backfill's and those of nobody in the lane are as they were, and as due as they were."""
    store = await registered(database)
    await loaded(database, [("app_a", {"note": "b"})], name="b")
    await loaded(database, [("app_a", {"note": "1"}), ("app_b", {"note": "1"}), ("app_c", {"note": "1"})])
    await database.write("app_b", {"note": "live"})
    await database.write("app_c", {"note": "lane"}, lane="backfill")
    await database.pool.execute("UPDATE caspen_sync.outbox SET source = $1 WHERE lane = 'live'", NAME)
    await store.take_in(["default"])
    assert (await cancelled(database)).discarded == 3
    claims = await claim(store, 10)
    assert sorted((one.appointment_id, len(one.changes), one.lane) for one in claims) == [
        ("app_a", 1, "backfill"),
        ("app_b", 1, "live"),
        ("app_c", 1, "backfill"),
    ]


@pytest.mark.parametrize("bring_back", [Store.given_up, lambda store, account: store.reinstate(account, "down")])
async def test_the_end_of_an_outage_brings_nothing_of_it_back(
    database: Database, bring_back: Callable[[Store, str], Awaitable[object]]
) -> None:
    """What was parked in an outage stays parked; that of another backfill is pending again."""
    store = await registered(database)
    await loaded(database, LINES[:1])
    await loaded(database, LINES[1:2], name="another")
    await store.take_in(["default"])
    await database.pool.execute(
        "UPDATE caspen_sync.outbox SET state = 'parked', finished_at = now(), attempts = 1;"
        "UPDATE caspen_sync.queue SET due_at = 'infinity';"
        "INSERT INTO caspen_sync.run_up"
        " SELECT account, 'down', appointment_id, '503', ARRAY[id], 1 FROM caspen_sync.outbox"
    )
    await cancelled(database)
    await database.pool.execute("UPDATE caspen_sync.backfill SET cancelled_at = now() WHERE name = $1", NAME)
    await bring_back(store, "default")
    assert [(appointment, state) for appointment, _, state in await outbox(database)] == [
        ("app_0", "parked"),
        ("app_1", "pending"),
    ]


async def test_a_retry_waits_a_moment_only_for_who_loads(database: Database) -> None:
    """It holds rows of the queue, for which claims wait; the backfill it counts in may be held for long."""
    store = await registered(database)
    await loaded(database, LINES[:1])
    await store.take_in(["default"])
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'parked', finished_at = now()")
    live = await database.write("app_0", {"room_id": 7})
    await database.pool.execute(
        "INSERT INTO caspen_sync.appointment (account, appointment_id, resource, synced_at, last_change_id, set_by)"
        " VALUES ('default', 'app_0', '{}', now(), $1, jsonb_build_object('room_id', $1::bigint))",
        live,
    )
    async with (
        database.pool.acquire() as loading,
        loading.transaction(),
        database.workers.acquire() as conn,
        asyncio.timeout(10),
    ):
        await loading.execute("SELECT FROM caspen_sync.backfill FOR UPDATE")
        with pytest.raises(DatabaseUnreachable, match="somebody holds a lock that this needs; it was not done"):
            await retry(conn, await find(conn, Filter()), By(who="ann@desk"))
        await store.take_in(["default"])
    assert [state for _, _, state in await outbox(database)] == ["parked", "pending"]


@pytest.mark.parametrize("news", ["live", "brought back"])
async def test_a_change_that_comes_meanwhile_is_due(database: Database, news: str) -> None:
    """The statement that discards cannot have seen it; it is not put to sleep by it."""
    store = await registered(database)
    parked = await database.write("app_0", {"note": "brought back"})
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'parked', finished_at = now()")
    await store.take_in(["default"])
    await loaded(database, LINES[:1])
    await store.take_in(["default"])
    async with database.pool.acquire() as holder:
        held = holder.transaction()
        await held.start()
        await holder.execute("SELECT FROM caspen_sync.queue FOR UPDATE")
        cancelling_it = asyncio.create_task(cancelled(database))
        await eventually(
            lambda: database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ),
            what="it to wait",
        )
        # What take_in and bring_back do, by who holds the row.
        if news == "live":
            await database.write("app_0", {"note": "live"})
            await holder.execute("UPDATE caspen_sync.queue SET newest_id = newest_id + 1, lane = 'live'")
            await holder.execute("DELETE FROM caspen_sync.arrival")
        else:
            await holder.execute(
                "UPDATE caspen_sync.outbox SET state = 'pending', finished_at = NULL WHERE id = $1", parked
            )
            await holder.execute("UPDATE caspen_sync.queue SET again = again + 1")
        await held.commit()
    await cancelling_it
    (claimed,) = await claim(store, 10)
    assert [change.changes for change in claimed.changes] == [{"note": news}]


async def test_a_change_that_is_brought_back_and_tried_meanwhile_is_not_forgotten(database: Database) -> None:
    """A claim has dealt with it, so that only the token tells that the row is another than the statement has seen."""
    store = await registered(database)
    await database.write("app_z", {"note": "brought back"})
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'parked', finished_at = now()")
    await loaded(database, [("app_a", {"note": "1"}), ("app_z", {"note": "2"})])
    await store.take_in(["default"])
    async with database.pool.acquire() as holder, database.pool.acquire() as conn:
        held = holder.transaction()
        await held.start()
        await holder.execute("SELECT FROM caspen_sync.queue WHERE appointment_id = 'app_a' FOR UPDATE")
        cancelling_it = asyncio.create_task(cancelled(database))
        await eventually(
            lambda: database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ),
            what="it to wait",
        )
        await retry(conn, await find(conn, Filter()), By(who="ann@desk"))
        (tried,) = await claim(store, 10)
        await settle(store, settlement(tried, due_in_s=0.0))
        await held.commit()
    await cancelling_it
    (claimed,) = await claim(store, 10)
    assert [change.changes for change in claimed.changes] == [{"note": "brought back"}]


async def test_a_claim_that_has_read_before_sends_nothing_of_it(database: Database) -> None:
    """Its picture of the outbox is older than the cancelling, and the row of the queue tells, be it asleep by then or,
    for the sake of a live change, still due."""
    store = await registered(database)
    await loaded(database, LINES[:2])
    await database.write("app_1", {"note": "live"})
    await store.take_in(["default"])
    holder, claiming = await stale_claim(database, store)
    assert (await cancelled(database)).discarded == 2
    await holder.execute("COMMIT")
    assert {one.appointment_id for one in await claiming} <= {"app_x"}
    await holder.close()
    (claimed,) = await claim(store, 10)
    assert [change.changes for change in claimed.changes] == [{"note": "live"}]


async def test_whoever_loads_it_is_stopped(database: Database) -> None:
    """What was not loaded never is, and its lines are gone."""
    staging, _ = await accepted(database, LINES)
    await cancelled(database)
    with pytest.raises(BackfillTakenOver, match="somebody has cancelled it"):
        await moved(database, staging)
    assert not await outbox(database)
    assert await database.value("SELECT count(*) FROM caspen_sync.backfill_line") == 0
    (entry,) = await backfills(database.pool)
    assert (entry.lines, entry.discarded, entry.given_up, entry.synced) == (20, 0, 20, 0)


async def test_twice(database: Database) -> None:
    """The second time finds nothing, and the first one's word stands."""
    await loaded(database, LINES)
    await cancelled(database)
    again = await cancel(database.workers, NAME, who="eve@desk", look_on=lambda _: None)
    assert again.discarded == 0
    (entry,) = await backfills(database.pool)
    assert (entry.discarded, entry.cancelled_by) == (20, "bob@desk")


async def test_what_a_person_discards_is_not_counted_as_synced(database: Database) -> None:
    """parked discard, of a backfill's changes."""
    await registered(database)
    await loaded(database, LINES[:2])
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'parked', finished_at = now()")
    async with database.pool.acquire() as conn:
        await discard(conn, await find(conn, Filter()), By(who="bob@desk"))
    (entry,) = await backfills(database.pool)
    assert (entry.discarded, entry.synced, entry.parked, entry.state) == (2, 0, 0, "done")


async def test_what_newer_changes_have_superseded_is_not_counted_as_synced(database: Database) -> None:
    """parked retry, of a backfill's change of which nothing is left."""
    store = await registered(database)
    await loaded(database, [("app_a", {"note": "1"})])
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'parked', finished_at = now()")
    await database.write("app_a", {"note": "newer"})
    await settle(store, taken(await the_claim(store)))
    async with database.pool.acquire() as conn:
        (done,) = await retry(conn, await find(conn, Filter()), By(who="ann@desk"))
    assert done.discarded
    (entry,) = await backfills(database.pool)
    assert (entry.discarded, entry.synced) == (1, 0)
