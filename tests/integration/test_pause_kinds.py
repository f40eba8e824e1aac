"""Which pause outranks which, what a person's pause does, and what a probe takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.support.claims import TIMEOUT_S, accepted, claim, registered, settle, settlement, stopped, written
from tests.support.database import Database
from tests.support.setbacks import account_row, claims_by_name, due, pause, run_up, settle_all, store_of, succeeding
from tests.support.waiting import eventually
from worker.claims import PauseKind

KINDS: Sequence[PauseKind] = ("throttled", "down", "rejected", "refused", "manual")
TOLD: Sequence[PauseKind] = KINDS[:-1]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, TOLD)))
async def test_each_kind_outranks_those_before_it(database: Database, first: PauseKind, second: PauseKind) -> None:
    """All pairs: the higher kind stays or takes over with its reason and its wait; nothing shortens a pause; a person's
    pause is not touched at all."""
    store = await registered(database)
    await due(database, store, ["app_a"])
    (held,) = await claim(store)
    await pause(database, first, 600)
    before = await account_row(database)
    told = await written(store, stopped(held, second, wait_s=700))
    after = await account_row(database)
    if first == "manual":
        assert after == before
        assert told.paused == ()
        return
    higher = KINDS.index(second) > KINDS.index(first)
    assert after["pause_kind"] == (second if higher else first)
    assert after["pause_reason"] == (f"{second}, says the API" if KINDS.index(second) >= KINDS.index(first) else first)
    assert after["paused_until"] > before["paused_until"]
    assert [paused.began for paused in told.paused] == [higher]
    expected_pauses = before["pauses"] if second == "throttled" else 1 if higher else before["pauses"] + 1
    assert after["pauses"] == expected_pauses
    assert await claim(store) == []


@pytest.mark.parametrize("second", TOLD)
async def test_a_throttle_that_is_over_is_no_pause(database: Database, second: PauseKind) -> None:
    """Claims and retries go on, the outlook knows of none, and what comes next begins a pause of its own."""
    store = await registered(database)
    await due(database, store, ["app_a", "app_b", "app_c"])
    (held,) = await claim(store)
    await pause(database, "throttled", 0.0)
    (outlook,) = await store.outlook(["default"])
    assert (outlook.pause_kind, outlook.due) == (None, True)
    assert await store.take_slot(held, timeout_s=TIMEOUT_S) is not None
    assert len(await claim(store)) == 1
    told = await written(store, stopped(held, second, wait_s=30))
    assert [(paused.kind, paused.began) for paused in told.paused] == [(second, True)]
    assert (await store.outlook(["default"]))[0].pause_kind == second


async def test_a_pause_by_hand_is_ended_by_hand(database: Database) -> None:
    """No probe, no welcome, no fresh token, no failure changes it; every question about the account is still answered;
    and what was on the wire is written back."""
    store = await registered(database)
    other = store_of(database, "other", down_after=1)
    await due(database, store, ["app_a", "app_b", "app_c"])
    held = await claims_by_name(store, 2)
    await pause(database, "manual")
    before = await account_row(database)
    assert await claim(store, 5) == []
    assert await store.take_slot(next(iter(held.values())), timeout_s=TIMEOUT_S) is None
    probe, last = held.values()
    welcome = replace(succeeding(probe), claim=replace(probe, probing="down"), welcome=True)
    assert (await settle_all(other, welcome)).welcomed == ()
    assert await settle(other, settlement(last, due_in_s=600.0)) == []
    assert not await store.fresh_tokens({"default": "another"})
    await store.tell_limit("default", 1000, timeout_s=TIMEOUT_S)
    assert await store.hold_back([]) == {}
    after = await account_row(database)
    assert {**after, "told_limit": None} == {**before, "told_limit": None}
    (outlook,) = await store.outlook(["default"])
    assert (outlook.pause_kind, outlook.due, outlook.waits) == ("manual", True, True)
    assert (outlook.ready_in_s, outlook.paused_for_s) == (None, None)
    left = await store.left_over(["default"], lease_s=60.0)
    assert (left.due, left.waiting) == (True, True)
    assert await claim(store, 5) == []


async def test_where_the_api_is_down_a_probe_takes_what_came_first(database: Database) -> None:
    """Of either lane: what failed backs off and comes last, so that a few changes that always fail do not hold up the
    others."""
    store = await registered(database)
    await due(database, store, ["fill_a"], lane="backfill")
    await due(database, store, ["app_a"])
    await due(database, store, ["app_b"])
    probed = []
    await pause(database, "down", 0.0)
    for _ in range(3):
        (probe,) = await claim(store, 5)
        probed.append(probe.appointment_id)
        await settle(store, settlement(probe, due_in_s=0.0))
        await pause(database, "down", 0.0)
    assert probed == ["fill_a", "app_a", "app_b"]


@pytest.mark.parametrize("kind", ["rejected", "refused"])
async def test_a_probe_takes_what_came_last_and_live_before_backfill(database: Database, kind: PauseKind) -> None:
    """What came first may be what the API turns away. Backfill only when nothing live is due."""
    store = await registered(database)
    await due(database, store, ["fill_a"], lane="backfill")
    await due(database, store, ["app_a"])
    await due(database, store, ["app_b"])
    await due(database, store, ["fill_b"], lane="backfill")
    await pause(database, kind, 0.0)
    probed = []
    for _ in range(4):
        (probe,) = await claim(store, 5)
        assert probe.probing == kind
        assert await claim(store, 5) == []
        probed.append(probe.appointment_id)
        await settle(store, settlement(probe, due_in_s=600.0))
        await pause(database, kind, 0.0)
    assert probed == ["app_b", "app_a", "fill_b", "fill_a"]


async def test_what_was_turned_away_goes_behind_everybody_as_a_probe(database: Database) -> None:
    """Each probe takes another appointment until all had their turn; when the account is welcome again, those that were
    turned away are suspect, and the others are not."""
    store = await registered(database)
    await due(database, store, ["app_a", "app_b", "app_c"])
    await pause(database, "refused", 0.0)
    probed = []
    for _ in range(2):
        (probe,) = await claim(store)
        probed.append(probe.appointment_id)
        await settle(store, replace(stopped(probe, "refused", wait_s=0.0), turned_away=True))
        await pause(database, "refused", 0.0)
    (last,) = await claim(store)
    assert len({*probed, last.appointment_id}) == 3
    await due(database, store, ["app_d"])
    await settle(store, replace(accepted(last), welcome=True))
    found = {one.appointment_id: one.suspect for one in await claim(store, 5)}
    assert found == {probed[0]: True, probed[1]: True, "app_d": False}


async def test_a_suspect_is_cleared_when_it_is_dealt_with(database: Database) -> None:
    """What comes later for the appointment is nobody's fault before it is sent."""
    store = await registered(database)
    await due(database, store, ["app_a", "app_b"])
    await pause(database, "refused", 0.0)
    (probe,) = await claim(store)
    await settle(store, replace(stopped(probe, "refused", wait_s=0.0), turned_away=True))
    await pause(database, "refused", 0.0)
    (probe,) = await claim(store)
    await settle(store, replace(accepted(probe), welcome=True))
    (suspect,) = await claim(store)
    assert suspect.suspect
    await settle(store, settlement(suspect, due_in_s=0.0))
    (suspect,) = await claim(store)
    assert suspect.suspect
    await settle(store, accepted(suspect))
    await due(database, store, [suspect.appointment_id])
    (cleared,) = await claim(store)
    assert not cleared.suspect
    assert await run_up(database) == {}


async def test_a_fresh_token_brings_the_probe_forward_and_nothing_else(database: Database) -> None:
    """Only where the account is refused, and only when it is not the token that was refused."""
    store = await registered(database)
    await due(database, store, ["app_a"])
    (held,) = await claim(store)
    refused = stopped(held, "refused", wait_s=600)
    assert refused.pause is not None
    await settle(store, replace(refused, pause=replace(refused.pause, token="old")))
    assert not await store.fresh_tokens({"default": "old"})
    assert await claim(store) == []
    assert await store.fresh_tokens({"default": "new"})
    assert [one.probing for one in await eventually(lambda: claim(store), what="a probe")] == ["refused"]
    await pause(database, "down")
    assert not await store.fresh_tokens({"default": "new"})
