"""The budget: as many slots as the limit, each used by one request at a time, each cooling as long as it must."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.support.canary import NOTE
from tests.support.claims import (
    TIMEOUT_S,
    accepted,
    claim,
    limits,
    registered,
    settle,
    settlement,
    snapshot,
    the_claim,
)
from tests.support.database import Database
from tests.support.setbacks import pause
from tests.support.waiting import eventually
from worker import policy
from worker.claims import Slot
from worker.store import Store

# What the default settings come to: two timeouts of a request, the window and the guard.
WORST_CASE = timedelta(seconds=2 * 30 + 60 + 0.5)
REST = timedelta(seconds=60 + 0.5)
A_LITTLE = timedelta(milliseconds=5)


async def clock_of(database: Database) -> datetime:
    now = await database.value("SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


async def free_at(database: Database, slot: int = 1) -> datetime:
    instant = await database.value("SELECT free_at FROM caspen_sync.rate_slot WHERE slot = $1", slot)
    assert isinstance(instant, datetime)
    return instant


async def slot_numbers(database: Database) -> list[int]:
    return [row["slot"] for row in await database.rows("SELECT slot FROM caspen_sync.rate_slot ORDER BY slot")]


async def free_slots(database: Database) -> int:
    count = await database.value("SELECT count(*) FROM caspen_sync.rate_slot WHERE free_at <= clock_timestamp()")
    assert isinstance(count, int)
    return count


async def due(database: Database, store: Store, count: int, lane: str = "live") -> None:
    """So many appointments that could be claimed."""
    await database.pool.execute(
        "INSERT INTO caspen_sync.outbox (appointment_id, changes, lane) "
        'SELECT $2 || n, \'{"note": "n"}\', $2 FROM generate_series(1, $1::int) n',
        count,
        lane,
    )
    await store.take_in(["default"])


# --- As many slots as the limit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1], [60, 60], [5, 60, 61, 7, 7, 1, 30]])
async def test_slots_fit_the_limit(database: Database, sizes: list[int]) -> None:
    """After every register there are exactly rate_limit slots, whether the limit was raised, lowered or kept."""
    for size in sizes:
        await registered(database, limits(size))
        assert len(await slot_numbers(database)) == size
        assert await database.value("SELECT rate_limit FROM caspen_sync.account") == size


async def test_new_slots_are_free_at_once(database: Database) -> None:
    """A new account can send from its first moment on."""
    await registered(database, limits(10))
    assert await free_slots(database) == 10


async def test_lowering_keeps_the_slots_that_are_hottest(database: Database) -> None:
    """Slots that stand for requests which the API still counts stay; those that rested longest go."""
    store = await registered(database, limits(10))
    await due(database, store, 4)
    used = {one.slot.number for one in await claim(store, 4)}
    assert len(used) == 4
    await registered(database, limits(5))
    assert used < set(await slot_numbers(database))
    await registered(database, limits(2))
    assert set(await slot_numbers(database)) < used


async def test_slots_of_other_accounts_are_left_alone(database: Database) -> None:
    """Each account has a budget of its own."""
    await registered(database, limits(7), account="a")
    await registered(database, limits(3), account="b")
    await registered(database, limits(2), account="a")
    rows = await database.rows(
        "SELECT account, count(*) AS n FROM caspen_sync.rate_slot GROUP BY account ORDER BY account"
    )
    assert [tuple(row) for row in rows] == [("a", 2), ("b", 3)]


async def test_hosts_that_start_at_once_agree(database: Database) -> None:
    """Eight connections that register at once leave exactly rate_limit slots; the last one decides on how many."""
    await asyncio.gather(*(registered(database, limits(40)) for _ in range(8)))
    assert len(await slot_numbers(database)) == 40
    await asyncio.gather(*(registered(database, limits(size)) for size in (10, 70, 20, 60, 30, 50, 40, 80)))
    assert len(await slot_numbers(database)) == await database.value("SELECT rate_limit FROM caspen_sync.account")


async def test_lowering_and_raising_creates_no_budget(database: Database) -> None:
    """Two hosts with different limits, started in turns, must not free slots whose requests the API still counts."""
    store = await registered(database, limits(10))
    await due(database, store, 25)
    assert len(await claim(store, 10)) == 10
    taken_until = await database.value("SELECT max(free_at) FROM caspen_sync.rate_slot")
    await registered(database, limits(5))
    kept = await slot_numbers(database)
    await registered(database, limits(10))
    assert await claim(store, 10) == []
    rest_until = "SELECT min(free_at) FROM caspen_sync.rate_slot WHERE slot <> ALL ($1::int[])"
    assert await database.value(rest_until, kept) >= taken_until


async def test_raising_alone_creates_no_budget_before_a_window_is_over(database: Database) -> None:
    """Slots that are added to an account in use may stand in for ones that another host just took away."""
    await registered(database, limits(5))
    await registered(database, limits(10))
    assert await free_slots(database) == 5


# --- Taking ------------------------------------------------------------------------------------------------------


async def test_concurrent_claims_share_the_slots(database: Database) -> None:
    """Many claimers, more due appointments than slots: no slot is taken twice, no more are taken than are free, and
    all of them are used in the end."""
    store = await registered(database, limits(10))
    await due(database, store, 40)
    for _ in range(15):
        got = [one for claims in await asyncio.gather(*(claim(store, 4) for _ in range(12))) for one in claims]
        while more := await claim(store, 4):
            got += more
        assert sorted(one.slot.number for one in got) == list(range(1, 11))
        assert len({one.appointment_id for one in got}) == 10
        assert await settle(store, *(policy.release(one) for one in got)) == []


async def test_concurrent_retries_share_the_slots(database: Database) -> None:
    """The slots for retries come out of the same budget, and none is given out twice."""
    store = await registered(database, limits(10))
    await due(database, store, 10)
    held = await claim(store, 3)
    tries = await asyncio.gather(*(store.take_slot(held[0], timeout_s=TIMEOUT_S) for _ in range(16)))
    taken = [slot for slot in tries if slot]
    while slot := await store.take_slot(held[0], timeout_s=TIMEOUT_S):
        taken.append(slot)
    assert sorted([one.slot.number for one in held] + [slot.number for slot in taken]) == list(range(1, 11))
    assert await claim(store, 10) == []


async def test_nothing_is_leased_without_a_slot(database: Database) -> None:
    """Without budget a claim changes nothing: no appointment is leased that would then wait."""
    store = await registered(database, limits(1))
    await due(database, store, 3)
    (held,) = await claim(store, 3)
    before = await snapshot(database, "queue", "rate_slot")
    assert await claim(store, 3) == []
    assert await store.take_slot(held, timeout_s=TIMEOUT_S) is None
    assert await snapshot(database, "queue", "rate_slot") == before


@pytest.mark.parametrize("by", ["claim", "probe", "retry"])
async def test_a_taken_slot_rests_for_the_worst_case(database: Database, by: str) -> None:
    """Answered at the last moment and counted a timeout later: two timeouts, window and guard from the claim on."""
    store = await registered(database, limits(2))
    await database.write("app_1", {"note": NOTE})
    if by == "probe":
        await pause(database, "down", 0.0)
    before = await clock_of(database)
    held = await the_claim(store)
    assert held.probing == ("down" if by == "probe" else None)
    slot: Slot | None = held.slot
    if by == "retry":
        before = await clock_of(database)
        slot = await store.take_slot(held, timeout_s=TIMEOUT_S)
    after = await clock_of(database)
    assert slot is not None
    assert before <= slot.free_at - WORST_CASE <= after
    assert slot.free_at == await free_at(database, slot.number)


# --- Cooling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered_s_ago", [0.0, 7.0, 100.0])
async def test_a_slot_cools_from_the_answer_on(database: Database, answered_s_ago: float) -> None:
    """Window and guard after the answer, not after the write-back, by the database's clock."""
    store = await registered(database, limits(1))
    await database.write("app_1", {"note": NOTE})
    held = await the_claim(store)
    before = await clock_of(database)
    await settle(store, accepted(held, answered_s_ago=answered_s_ago))
    after = await clock_of(database)
    answered_at = await free_at(database) - REST + timedelta(seconds=answered_s_ago)
    assert before - A_LITTLE <= answered_at <= after + A_LITTLE


async def test_an_unknown_outcome_leaves_the_worst_case(database: Database) -> None:
    """A request that was sent and never answered may be counted late: its slot is not touched."""
    store = await registered(database, limits(1))
    await database.write("app_1", {"note": NOTE})
    held = await the_claim(store)
    await settle(store, settlement(held, due_in_s=0.0, answered_s_ago=None))
    assert await free_at(database) == held.slot.free_at


async def test_an_unused_slot_is_free_at_once(database: Database) -> None:
    """A claim that is given back unsent costs no budget."""
    store = await registered(database, limits(1))
    await database.write("app_1", {"note": NOTE})
    await settle(store, policy.release(await the_claim(store)))
    assert len(await claim(store)) == 1


async def test_the_slots_of_a_lost_claim_cool_all_the_same(database: Database) -> None:
    """The request was made, whoever holds the lease by now: its slot rests from its answer on."""
    store = await registered(database, limits(2))
    await database.write("app_1", {"note": NOTE})
    old = await the_claim(store, lease_s=0.1)
    await eventually(lambda: claim(store), what="the appointment is claimed again")
    late = accepted(old)
    assert await settle(store, late) == [late]
    assert await free_at(database, old.slot.number) < old.slot.free_at


async def test_a_slot_that_was_taken_again_is_not_shortened(database: Database) -> None:
    """A settle that comes so late that its slot is somebody else's leaves it alone, to free it or to cool it."""
    store = await registered(database, limits(1, rate_window_s=0.05, rate_guard_s=0))
    await due(database, store, 2)
    (old,) = await claim(store, timeout_s=0.05)
    (new,) = await eventually(lambda: claim(store, timeout_s=600.0), what="the slot is free again")
    assert new.slot.number == old.slot.number
    assert await settle(store, replace(accepted(old), slots=policy.release(old).slots)) == []
    assert await free_at(database) == new.slot.free_at
    await settle(store, accepted(old), rest_s=0.05)
    assert await free_at(database) == new.slot.free_at


# --- The reserve -------------------------------------------------------------------------------------------------


async def test_backfill_leaves_the_reserve(database: Database) -> None:
    """However many claim at once, backfill stops at the reserve, retries included; live changes then find it free."""
    store = await registered(database, limits(20, live_reserve=0.25))
    await due(database, store, 40, "backfill")
    got = []
    while claims := [one for some in await asyncio.gather(*(claim(store, 3) for _ in range(10))) for one in some]:
        got += claims
        assert await free_slots(database) >= 5
    while more := await claim(store, 3):
        got += more
    assert (len(got), await free_slots(database)) == (15, 5)
    assert await store.take_slot(got[0], timeout_s=TIMEOUT_S) is None

    await due(database, store, 8)
    live = await claim(store, 8)
    assert [one.lane for one in live] == ["live"] * 5
    assert await free_slots(database) == 0


async def test_live_retries_may_use_the_reserve(database: Database) -> None:
    """A retry of a live change takes the last slot; one of a backfill does not."""
    store = await registered(database, limits(4, live_reserve=0.5))
    await due(database, store, 1)
    (live,) = await claim(store)
    await due(database, store, 5, "backfill")
    (backfill,) = await claim(store, 5)
    assert (live.lane, backfill.lane) == ("live", "backfill")
    assert await store.take_slot(backfill, timeout_s=TIMEOUT_S) is None
    assert await store.take_slot(live, timeout_s=TIMEOUT_S) is not None
    assert await store.take_slot(live, timeout_s=TIMEOUT_S) is not None
    assert await free_slots(database) == 0


async def test_live_and_backfill_in_one_claim(database: Database) -> None:
    """One claim for both lanes takes all live appointments, and backfill only as far as the reserve stays free."""
    store = await registered(database, limits(10, live_reserve=0.3))
    await due(database, store, 4)
    await due(database, store, 10, "backfill")
    lanes = sorted(one.lane for one in await claim(store, 10))
    assert lanes == ["backfill"] * 3 + ["live"] * 4
    assert await free_slots(database) == 3
