"""Slots that are held back, because the API says that fewer remain than nobody of ours has used."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.support.claims import TIMEOUT_S, accepted, claim, limits, registered, settle, settlement
from tests.support.database import Database
from tests.support.setbacks import due
from worker import clock
from worker.claims import BudgetTold
from worker.store import Store

FREE = "SELECT count(*) FROM caspen_sync.rate_slot WHERE free_at <= clock_timestamp()"
HELD = "SELECT count(*) FROM caspen_sync.rate_slot WHERE held_until = free_at AND free_at > clock_timestamp()"


async def told(store: Store, remaining: int, *, ago_s: float = 0.0) -> int:
    """How many more are held back, when an answer to a request that began so long ago says that so many remain."""
    one = BudgetTold(account="default", limit=None, remaining=remaining, started_at=clock.now() - ago_s)
    return (await store.hold_back([one])).get("default", 0)


async def test_the_difference_is_held_back_for_a_window_and_a_half(database: Database) -> None:
    """Ten are free and six remain: four are somebody else's, until the API has forgotten them for sure."""
    store = await registered(database, limits(10))
    assert await told(store, 6) == 4
    assert (await database.value(FREE), await database.value(HELD)) == (6, 4)
    left = await database.value(
        "SELECT extract(epoch FROM max(free_at) - clock_timestamp()) FROM caspen_sync.rate_slot"
    )
    assert 90 < left <= 1.5 * 60.5


async def test_nobody_else_holds_nothing_back(database: Database) -> None:
    """As many remain as are free, or more: nothing is written, not even a lock is taken."""
    store = await registered(database, limits(10))
    await due(database, store, ["app_a", "app_b"])
    await claim(store, 2)
    before = await database.rows("SELECT xmax, xmin, ctid, * FROM caspen_sync.rate_slot ORDER BY slot")
    for remaining in (8, 9, 10, 1000):
        assert await told(store, remaining) == 0
    assert await database.rows("SELECT xmax, xmin, ctid, * FROM caspen_sync.rate_slot ORDER BY slot") == before


async def test_what_became_free_while_the_request_was_on_its_way_does_not_count(database: Database) -> None:
    """The API may have counted it still when it answered."""
    store = await registered(database, limits(10))
    await database.pool.execute("UPDATE caspen_sync.rate_slot SET free_at = clock_timestamp() WHERE slot <= 4")
    assert await told(store, 6, ago_s=5.0) == 0
    assert await told(store, 5, ago_s=5.0) == 1
    assert await database.value("SELECT count(held_until) FROM caspen_sync.rate_slot WHERE slot <= 4") == 0


async def test_held_slots_count_as_unused_and_are_held_on(database: Database) -> None:
    """With a backlog no slot is ever free: that nothing remains still says that the held ones are not to be had. Once
    the API says that there is room for them, they are not held on."""
    store = await registered(database, limits(10))
    assert await told(store, 6) == 4
    until = "SELECT max(free_at), min(free_at) FROM caspen_sync.rate_slot WHERE held_until = free_at"
    ((newest, oldest),) = await database.rows(until)
    await due(database, store, [f"app_{number}" for number in range(8)])
    held = await claim(store, 8)
    assert len(held) == 6
    assert await told(store, 1) == 0
    ((renewed, waiting),) = await database.rows(until)
    assert (renewed > newest, waiting) == (True, oldest)
    await asyncio.gather(*(told(store, 0) for _ in range(4)))
    assert await database.value(HELD) == 4
    ((_, all_renewed),) = await database.rows(until)
    assert all_renewed > oldest
    assert await told(store, 4) == 0
    ((unchanged, _),) = await database.rows(until)
    assert unchanged <= await database.value("SELECT clock_timestamp() + interval '91 s'")


async def test_the_slot_of_a_429_is_somebody_elses(database: Database) -> None:
    """It rests as if held back, and is held on while nothing remains; used again and answered, it is ours again."""
    store = await registered(database, limits(1))
    await due(database, store, ["app_a"])
    (one,) = await claim(store)
    refused = settlement(one, due_in_s=0.0)
    await settle(store, replace(refused, slots=tuple(replace(used, throttled=True) for used in refused.slots)))
    assert await database.value(HELD) == 1
    before = await database.value("SELECT free_at FROM caspen_sync.rate_slot")
    assert await told(store, 0) == 0
    assert await database.value("SELECT free_at FROM caspen_sync.rate_slot") > before
    await database.pool.execute("UPDATE caspen_sync.rate_slot SET free_at = now(), held_until = now()")
    (one,) = await claim(store)
    assert await told(store, 0) == 0
    await settle(store, accepted(one))
    assert await database.value("SELECT count(held_until) FROM caspen_sync.rate_slot") == 0


async def test_a_lower_limit_is_obeyed_and_outlasts_a_restart(database: Database) -> None:
    """The lower of the two rules, whoever registers; told a higher one again, the budget grows by slots that rest."""
    store = await registered(database, limits(10))
    await store.tell_limit("default", 4, timeout_s=TIMEOUT_S)
    await registered(database, limits(10))
    count = "SELECT count(*) FROM caspen_sync.rate_slot"
    assert await database.value(count) == 4
    await registered(database, limits(3))
    assert await database.value(count) == 3
    await registered(database, limits(10))
    await store.tell_limit("default", 40, timeout_s=TIMEOUT_S)
    assert (await database.value(count), await database.value(FREE)) == (10, 3)
