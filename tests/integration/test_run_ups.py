"""Run-ups: what fails, or is rejected, for different appointments in a row pauses the account and costs nobody."""

from __future__ import annotations

import pytest

from tests.support.claims import accepted, claim, ids, registered
from tests.support.database import Database
from tests.support.setbacks import (
    account_row,
    changes,
    claims_by_name,
    due,
    failing,
    pause,
    rejecting,
    run_up,
    settle_all,
    store_of,
    succeeding,
)
from worker.claims import RunUpKind

ABC = ["app_a", "app_b", "app_c"]


async def test_a_run_up_is_counted_across_processes(database: Database) -> None:
    """Two that failed in one process and one in another are three: the account pauses, with the first wait."""
    await registered(database)
    one, other = (store_of(database, name, down_after=3, probe_base_s=30) for name in ("one", "other"))
    await due(database, one, ABC)
    held = await claims_by_name(one)
    await settle_all(one, failing(held["app_a"]), failing(held["app_b"]))
    assert (await account_row(database))["pause_kind"] is None
    written = await settle_all(other, failing(held["app_c"]))
    assert [(paused.kind, paused.began, round(paused.for_s)) for paused in written.paused] == [("down", True, 30)]
    assert (await account_row(database))["pause_reason"] == "503"
    assert await changes(database) == dict.fromkeys(ABC, ("pending", 0))
    assert await run_up(database) == {}
    assert await claim(one, 3) == []


async def test_one_appointment_that_fails_again_and_again_pauses_nobody(database: Database) -> None:
    """It is one setback, and keeps being charged: this is the change's own business."""
    await registered(database)
    store = store_of(database, "one", down_after=2)
    await due(database, store, ["app_a"])
    for _ in range(5):
        (held,) = await claim(store)
        await settle_all(store, failing(held))
    assert (await account_row(database))["pause_kind"] is None
    assert await changes(database) == {"app_a": ("pending", 5)}


@pytest.mark.parametrize("kind", ["down", "rejected"])
async def test_a_success_in_between_ends_it(database: Database, kind: RunUpKind) -> None:
    """In another process, or in the batch: what went wrong before does not count, and stays charged."""
    await registered(database)
    one, other = (store_of(database, name, down_after=3, rejected_after=3) for name in ("one", "other"))
    names = [*ABC, "app_d", "app_e", "app_f"]
    await due(database, one, names)
    held = await claims_by_name(one)
    bad = failing if kind == "down" else rejecting
    state = "pending" if kind == "down" else "parked"
    await settle_all(one, bad(held["app_a"]), bad(held["app_b"]))
    await settle_all(other, succeeding(held["app_c"]))
    assert await run_up(database) == {}
    await settle_all(one, bad(held["app_d"]))
    await settle_all(one, succeeding(held["app_e"]), bad(held["app_f"]))
    assert set(await run_up(database)) <= {"app_f"}
    assert (await account_row(database))["pause_kind"] is None
    assert (await changes(database))["app_a"] == (state, 1)


async def test_a_rejection_ends_a_row_of_failures(database: Database) -> None:
    """It was an answer: the API is not down."""
    await registered(database)
    store = store_of(database, "one", down_after=2)
    await due(database, store, ABC)
    held = await claims_by_name(store)
    await settle_all(store, failing(held["app_a"]))
    await settle_all(store, rejecting(held["app_b"]))
    await settle_all(store, failing(held["app_c"]))
    assert await run_up(database) == {"app_b": "rejected", "app_c": "down"}
    assert (await account_row(database))["pause_kind"] is None


@pytest.mark.parametrize("kind", ["down", "rejected"])
async def test_every_change_of_a_fold_gets_back_what_it_was_charged(database: Database, kind: RunUpKind) -> None:
    """A request that failed was one for each of the changes in it."""
    await registered(database)
    store = store_of(database, "one", down_after=2, rejected_after=2)
    await due(database, store, ["app_a", "app_a", "app_b"])
    held = await claims_by_name(store)
    assert len(ids(held["app_a"])) == 2
    bad = failing if kind == "down" else rejecting
    await settle_all(store, bad(held["app_a"]))
    await settle_all(store, bad(held["app_b"]))
    assert (await account_row(database))["pause_kind"] == kind
    rows = await database.rows("SELECT state, attempts FROM caspen_sync.outbox")
    assert [tuple(row) for row in rows] == [("pending", 0)] * 3


async def test_what_was_parked_is_pending_again_at_its_old_place(database: Database) -> None:
    """All of a rejected run-up, uncharged and in front of what waits; nobody else's changes are touched."""
    await registered(database)
    store = store_of(database, "one", rejected_after=3, probe_base_s=0.01)
    await due(database, store, ["app_0"])
    (other,) = await claim(store)
    await settle_all(store, rejecting(other, "422 by itself"))
    await due(database, store, ABC)
    held = await claims_by_name(store)
    await due(database, store, ["app_z"])
    for name in ABC:
        await settle_all(store, rejecting(held[name]))
    assert (await account_row(database))["pause_kind"] == "rejected"
    assert await changes(database) == {
        "app_0": ("parked", 1),
        **dict.fromkeys([*ABC, "app_z"], ("pending", 0)),
    }
    assert await database.value("SELECT count(finished_at) FROM caspen_sync.outbox") == 1
    await database.pool.execute("UPDATE caspen_sync.account SET paused_until = NULL, pause_kind = NULL")
    assert {one.appointment_id for one in await claim(store, 3)} == set(ABC)


async def test_another_reason_starts_a_row_of_rejections_anew(database: Database) -> None:
    """... also for an appointment that was rejected for the old reason: what it was charged then stays charged."""
    await registered(database)
    store = store_of(database, "one", rejected_after=2)
    await due(database, store, ["app_a", "app_b"])
    held = await claims_by_name(store)
    await settle_all(store, rejecting(held["app_a"], "422"), rejecting(held["app_b"], "409"))
    assert await run_up(database) == {"app_b": "rejected"}
    await due(database, store, ["app_b", "app_c"])
    held = await claims_by_name(store)
    assert len(ids(held["app_b"])) == 1
    await settle_all(store, rejecting(held["app_b"], "404"))
    assert (await account_row(database))["pause_kind"] is None
    await settle_all(store, rejecting(held["app_c"], "404"))
    assert (await account_row(database))["pause_kind"] == "rejected"
    rows = await database.rows("SELECT appointment_id, state, attempts FROM caspen_sync.outbox ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("app_a", "parked", 1),
        ("app_b", "parked", 1),
        ("app_b", "pending", 0),
        ("app_c", "pending", 0),
    ]


@pytest.mark.parametrize("kind", ["down", "rejected"])
async def test_what_is_on_the_wire_when_it_opens_is_given_back_too(database: Database, kind: RunUpKind) -> None:
    """Requests that began before the pause and come back after it: not charged, not parked; the pause is not longer
    for them."""
    await registered(database)
    store = store_of(database, "one", down_after=2, rejected_after=2)
    names = [*ABC, "app_d"]
    await due(database, store, names)
    held = await claims_by_name(store)
    bad = failing if kind == "down" else rejecting
    settlements = [bad(held[name]) for name in names]
    await settle_all(store, *settlements[:2])
    before = await account_row(database)
    await settle_all(store, settlements[2])
    await settle_all(store, settlements[3])
    assert (before["pause_kind"], before["pauses"]) == (kind, 1)
    assert (await account_row(database))["paused_until"] == before["paused_until"]
    assert await changes(database) == dict.fromkeys(names, ("pending", 0))
    assert await run_up(database) == {}


async def test_a_rejection_that_is_known_pauses_nobody_for_an_hour(database: Database) -> None:
    """Once it met an appointment again although the API had accepted another, it is the changes' own fault: further
    ones park one by one. An hour later it would be counted again."""
    await registered(database)
    store = store_of(database, "one", rejected_after=2)
    await database.pool.execute("UPDATE caspen_sync.account SET known_reason = '422', known_at = now()")
    await due(database, store, [*ABC, "app_d", "app_e"])
    held = await claims_by_name(store)
    await settle_all(store, *(rejecting(held[name], "422") for name in ABC))
    assert await changes(database) | {"app_d": None, "app_e": None} == {
        **dict.fromkeys(ABC, ("parked", 1)),
        "app_d": None,
        "app_e": None,
    }
    await database.pool.execute("UPDATE caspen_sync.account SET known_at = now() - interval '61 minutes'")
    await settle_all(store, rejecting(held["app_d"], "422"), rejecting(held["app_e"], "422"))
    assert (await account_row(database))["pause_kind"] == "rejected"


async def test_a_success_does_not_forget_what_is_still_to_be_given_back(database: Database) -> None:
    """While the account is paused for it, a request that was on the wire and is accepted leaves the run-up alone: who
    opened it may just be about to bring it back, or be dead."""
    await registered(database)
    store = store_of(database, "one", rejected_after=2)
    await due(database, store, ABC)
    held = await claims_by_name(store)
    rejected = [rejecting(held[name]) for name in ABC[:2]]
    written = await store.settle(rejected, {"default": 60.0})
    assert written.reinstate == (("default", "rejected"),)
    await settle_all(store, succeeding(held["app_c"]))
    assert set(await run_up(database)) == {"app_a", "app_b"}
    assert await store.reinstate("default", "rejected") == (2, 2)
    assert await changes(database) == {
        "app_a": ("pending", 0),
        "app_b": ("pending", 0),
        "app_c": ("synced", 1),
    }


async def test_giving_back_brings_back_nothing_that_is_settled(database: Database) -> None:
    """What was synced or discarded meanwhile stays so, and no count of attempts falls below nothing."""
    await registered(database)
    store = store_of(database, "one", down_after=9)
    numbers = await due(database, store, ABC)
    held = await claims_by_name(store)
    await settle_all(store, *(failing(one) for one in held.values()))
    again = await claims_by_name(store)
    await store.settle([accepted(again["app_a"])], {"default": 60.0})
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'discarded' WHERE id = $1", numbers["app_b"])
    await database.pool.execute("UPDATE caspen_sync.outbox SET attempts = 0 WHERE id = $1", numbers["app_c"])
    await pause(database, "down")
    assert await store.reinstate("default", "down") == (1, 0)
    assert await changes(database) == {"app_a": ("synced", 2), "app_b": ("discarded", 1), "app_c": ("pending", 0)}
