"""Changes that are brought back: whatever their appointment is doing just then, they become claimable, and many
processes that settle, claim and bring back at once do not block each other."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.claims import accepted, claim, ids, lease_over, limits, registered, settle, settlement
from tests.support.database import Database
from tests.support.setbacks import (
    changes,
    claims_by_name,
    due,
    failing,
    pause,
    rejecting,
    settle_all,
    store_of,
    succeeding,
)
from tests.support.stale import stale_claim
from tests.support.waiting import eventually
from worker import policy
from worker.store import Store

GIVE_UP_LEASES = "UPDATE caspen_sync.queue SET due_at = now(), leased_until = NULL WHERE leased_until IS NOT NULL"
NO_PAUSE = "UPDATE caspen_sync.account SET paused_until = NULL, pause_kind = NULL, probe_until = NULL"


async def parked_in_a_run_up(database: Database, store: Store) -> int:
    """A change of app_a that was rejected in a run-up, and the run-up has opened; returns its id."""
    numbers = await due(database, store, ["app_a", "app_b"])
    held = await claims_by_name(store)
    await store.settle([rejecting(held["app_a"]), rejecting(held["app_b"])], {"default": 60.0})
    await database.pool.execute(NO_PAUSE)
    return numbers["app_a"]


@pytest.mark.parametrize("doing", ["idle", "due", "leased", "backing off", "lease expired"])
async def test_a_change_that_is_brought_back_becomes_claimable(database: Database, doing: str) -> None:
    """Idle, it is due at once; due or backing off, it goes with the next claim; leased, it is due when that is settled,
    even if everything in the claim was newer; and when the lease has run out, whoever takes over takes it too."""
    await registered(database)
    store = store_of(database, "one", rejected_after=2)
    old = await parked_in_a_run_up(database, store)
    if doing != "idle":
        await due(database, store, ["app_a"])
    held = None
    if doing in ("leased", "backing off", "lease expired"):
        (held,) = await claim(store, lease_s=0.2 if doing == "lease expired" else 60.0)
    if held and doing == "backing off":
        await settle(store, settlement(held, due_in_s=0.2))
    if held and doing == "lease expired":
        await lease_over(database, held)
    assert await store.reinstate("default", "rejected") == (2, 2)
    if held and doing == "leased":
        assert await settle(store, accepted(held)) == []

    async def claimed() -> list[int]:
        return [number for one in await claim(store, 5) if one.appointment_id == "app_a" for number in ids(one)]

    assert old in await eventually(claimed, what="it is claimed")


@pytest.mark.parametrize("before", [0, 1])
async def test_a_stale_claim_swallows_nothing(database: Database, before: int) -> None:
    """A claim whose snapshot is older than the bringing-back leaves the row, also when it saw that another change of
    the appointment had come back before; the next claim takes all of it."""
    await registered(database)
    store = store_of(database, "one", rejected_after=2)
    old = await parked_in_a_run_up(database, store)
    newer = (await due(database, store, ["app_a"]))["app_a"]
    await database.pool.execute("UPDATE caspen_sync.queue SET again = $1 WHERE appointment_id = 'app_a'", before)
    holder, stale = await stale_claim(database, store)
    try:
        assert await store.reinstate("default", "rejected") == (2, 2)
    finally:
        await holder.execute("COMMIT")
        await holder.close()
    found = [one for one in await stale if one.account == "default"]
    found += await claim(store, 5)
    assert [ids(one) for one in found if one.appointment_id == "app_a"] == [[old, newer]]


async def test_settling_claiming_and_bringing_back_at_once(database: Database) -> None:
    """Random outcomes of many processes at once, with hosts that change the limit: no deadlock, no change is lost or
    left behind, and everything is synced when the API takes everything."""
    await registered(database, limits(30))
    chance = random.Random(11)
    names = [f"app_{number:02}" for number in range(24)]
    for _ in range(3):
        await due(database, store_of(database, "writer"), names)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"

    async def work(number: int, *, bad: bool) -> None:
        store = store_of(database, f"worker-{number}", down_after=3, rejected_after=3)
        for _ in range(25 if bad else 200):
            claims = await claim(store, chance.randint(1, 6), max_changes=2)
            await asyncio.sleep(0)
            outcomes = [succeeding, failing, rejecting, rejecting] if bad else [succeeding]
            # Of an appointment that others settled while it was being claimed nothing is left.
            settlements = [chance.choice(outcomes)(one) if one.changes else policy.release(one) for one in claims]
            if settlements:
                await settle_all(store, *settlements, rest_s=0.0)
            await database.pool.execute(NO_PAUSE)

    async def resize() -> None:
        for number in range(30):
            await store_of(database, "host").tell_limit("default", 20 + number % 9, timeout_s=0.01)

    await asyncio.gather(*(work(number, bad=True) for number in range(8)), resize())
    assert await database.value(deadlocks) == 0
    await pause(database, "rejected", 0.0)
    for kind in ("down", "rejected"):
        await store_of(database, "last").reinstate("default", kind)
    await database.pool.execute(NO_PAUSE)
    await database.pool.execute(f"{GIVE_UP_LEASES}; UPDATE caspen_sync.rate_slot SET free_at = '-infinity'")
    await work(9, bad=False)
    left = await database.value("SELECT count(*) FROM caspen_sync.outbox WHERE state = 'pending'")
    assert left == 0, await changes(database)
    assert await database.value("SELECT count(*) FROM caspen_sync.queue WHERE due_at < 'infinity'") == 0
    assert await database.value(deadlocks) == 0
