"""What was sent, and may have been done unheard, is known to whoever claims the appointment next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.claims import accepted, claim_arrival, ids, lease_over, registered, settle, settlement, the_claim
from tests.support.database import Database
from tests.support.parking import BY, found, parked
from worker.claims import Claim
from worker.parked import retry
from worker.parts import UNSURE_MOST
from worker.store import Store

LEASE_S = 0.3


async def _claimed(store: Store, *, arriving: bool, lease_s: float = 60.0) -> Claim:
    if not arriving:
        return await the_claim(store, lease_s=lease_s)
    got = await store.claim_arrival("default", timeout_s=30.0, lease_s=lease_s, max_changes=1000)
    assert got is not None
    return got[0]


@pytest.mark.parametrize("arriving", [False, True], ids=["taken-in", "at-once"])
async def test_what_a_dead_holder_claimed_is_known_to_the_next(database: Database, *, arriving: bool) -> None:
    """Nothing is written back; the mark stands since before the request could go out."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    newest = await database.write("app_1", {"note": "b"})
    first = await _claimed(store, arriving=arriving, lease_s=LEASE_S)
    assert first.unsure_ids == ()
    await lease_over(database, first)
    later = await database.write("app_1", {"note": "c"})
    second = await the_claim(store, lease_s=LEASE_S)
    assert second.unsure_ids == (newest,)
    await lease_over(database, second)
    assert (await the_claim(store)).unsure_ids == (newest, later)


async def test_the_same_is_known_once(database: Database) -> None:
    """Whoever claims the same changes again adds nothing."""
    store = await registered(database)
    newest = await database.write("app_1", {"note": "a"})
    for _ in range(3):
        held = await the_claim(store, lease_s=LEASE_S)
        await lease_over(database, held)
    assert (await the_claim(store)).unsure_ids == (newest,)


async def test_a_settlement_says_what_is_unsure_from_now_on(database: Database) -> None:
    """It replaces what the claim wrote; nothing is null again."""
    store = await registered(database)
    change_id = await database.write("app_1", {"note": "a"})
    held = await the_claim(store)
    await settle(store, replace(settlement(held, due_in_s=0.0), unsure_ids=(3, 7)))
    held = await the_claim(store)
    assert held.unsure_ids == (3, 7)
    assert await database.value("SELECT unsure_ids FROM caspen_sync.queue") == [3, 7, change_id]
    assert await settle(store, replace(accepted(held), unsure_ids=())) == []
    assert await database.value("SELECT unsure_ids FROM caspen_sync.queue") is None


async def test_an_idle_appointment_is_claimed_at_once_with_what_is_unsure(database: Database) -> None:
    """As when it is taken in first."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    held = await the_claim(store)
    await settle(store, replace(accepted(held), unsure_ids=(3,)))
    await database.write("app_1", {"note": "b"})
    got = await claim_arrival(store)
    assert got is not None
    assert got[0].unsure_ids == (3,)


@pytest.mark.parametrize("arriving", [False, True], ids=["taken-in", "at-once"])
async def test_the_newest_are_remembered(database: Database, *, arriving: bool) -> None:
    """So many that a refusal costs not many more requests."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    held = await the_claim(store)
    await settle(store, replace(accepted(held), unsure_ids=tuple(range(101, 101 + UNSURE_MOST))))
    newest = await database.write("app_1", {"note": "b"})
    await _claimed(store, arriving=arriving)
    remembered = await database.value("SELECT unsure_ids FROM caspen_sync.queue")
    assert remembered == [*range(102, 101 + UNSURE_MOST), newest]


async def test_who_lost_the_claim_changes_nothing_of_it(database: Database) -> None:
    """The mark stays as the new holder has found it."""
    store = await registered(database)
    newest = await database.write("app_1", {"note": "a"})
    held = await the_claim(store, lease_s=LEASE_S)
    await lease_over(database, held)
    await the_claim(store)
    assert len(await settle(store, replace(settlement(held), unsure_ids=()))) == 1
    assert await database.value("SELECT unsure_ids FROM caspen_sync.queue") == [newest]


@pytest.mark.parametrize("held_meanwhile", [False, True])
async def test_what_comes_back_is_no_part_of_what_was_counted(database: Database, *, held_meanwhile: bool) -> None:
    """A person brings an older change back, while a claim is held or after it: the next one folds everything. By the
    number of changes it would cut off the newest of those that may have been done together."""
    store = await registered(database)
    older = await parked(database, "app_1", {"vehicle_id": 1})
    newer = [await database.write("app_1", {"note": note}) for note in ("a", "b")]
    held = await the_claim(store, max_changes=2)
    unheard = replace(settlement(held, due_in_s=0.0), part_size=2, unsure_ids=(newer[-1],))
    for step in ("person", "worker") if held_meanwhile else ("worker", "person"):
        if step == "worker":
            assert await settle(store, unheard) == []
        else:
            async with database.pool.acquire() as conn:
                await retry(conn, await found(database, older), BY)
    assert ids(await the_claim(store)) == [older, *newer]


@pytest.mark.parametrize("how", ["reinstate", "given_up"])
async def test_what_an_outage_gives_back_is_no_part_of_it_either(database: Database, how: str) -> None:
    """The same for changes that come back by themselves, once the API is heard of again."""
    store = await registered(database)
    older = await parked(database, "app_1", {"vehicle_id": 1})
    newer = [await database.write("app_1", {"note": note}) for note in ("a", "b")]
    held = await the_claim(store, max_changes=2)
    assert await settle(store, replace(settlement(held, due_in_s=0.0), part_size=2, unsure_ids=(newer[-1],))) == []
    await database.pool.execute(
        "INSERT INTO caspen_sync.run_up (account, kind, appointment_id, reason, change_ids, charged) "
        "VALUES ('default', 'down', 'app_1', '503', ARRAY[$1::bigint], 1)",
        older,
    )
    if how == "reinstate":
        assert await store.reinstate("default", "down") == (1, 1)
    else:
        assert await store.given_up("default") == 1
    assert ids(await the_claim(store)) == [older, *newer]
