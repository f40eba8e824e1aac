"""The right to speak for an appointment: one holder at a time, all that is pending, in order, and nothing lost."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.claims import (
    accepted,
    claim,
    ids,
    lease_over,
    registered,
    settle,
    settlement,
    snapshot,
    the_claim,
)
from tests.support.database import Database
from tests.support.waiting import eventually
from worker import policy
from worker.claims import Verdict
from worker.store import MAX_CHANGES_PER_CLAIM, Store

NUL = '{"note": "\\u0000"}'
IDLE = "SELECT due_at = 'infinity' AND leased_until IS NULL FROM caspen_sync.queue WHERE appointment_id = 'app_1'"


async def test_all_pending_changes_come_in_id_order(database: Database) -> None:
    """A claim brings every pending change of its appointment and of no other, oldest first, as it was written."""
    store = await registered(database)
    written = []
    for number in range(5):
        written.append(await database.write("app_1", {"note": None, "room_id": number}))
        await database.write("app_2", {"note": "not mine"})
    await store.take_in(["default"])
    by_appointment = {one.appointment_id: one for one in await claim(store, 10)}
    assert ids(by_appointment["app_1"]) == written
    assert [change.changes for change in by_appointment["app_1"].changes] == [
        {"note": None, "room_id": number} for number in range(5)
    ]
    assert len(by_appointment["app_2"].changes) == 5


async def test_live_goes_first_then_age(database: Database) -> None:
    """A live change goes before backfill that waits longer; within a lane, what waits longest goes first."""
    store = await registered(database)
    for appointment_id, lane in [("z", "backfill"), ("y", "backfill"), ("x", "live"), ("w", "live")]:
        await database.write(appointment_id, {"note": NOTE}, lane=lane)
        await store.take_in(["default"])
    order = [one.appointment_id for _ in range(4) for one in await claim(store)]
    assert order == ["x", "w", "z", "y"]
    assert await claim(store) == []


async def test_a_claim_of_several_takes_live_first(database: Database) -> None:
    """With room for two, the live appointment is among them, however many backfills are older."""
    store = await registered(database)
    for appointment_id, lane in [("a", "backfill"), ("b", "backfill"), ("c", "backfill"), ("d", "live")]:
        await database.write(appointment_id, {"note": NOTE}, lane=lane)
        await store.take_in(["default"])
    assert {one.appointment_id for one in await claim(store, 2)} == {"d", "a"}


async def test_a_live_change_makes_its_appointment_live(database: Database) -> None:
    """A live change on an appointment with backfill pending takes the backfill along, ahead of other backfill."""
    store = await registered(database)
    await database.write("app_0", {"note": "older backfill"}, lane="backfill")
    await store.take_in(["default"])
    first = await database.write("app_1", {"note": "backfill"}, lane="backfill")
    await store.take_in(["default"])
    second = await database.write("app_1", {"room_id": 1})
    await store.take_in(["default"])
    (claimed,) = await claim(store)
    assert (claimed.appointment_id, claimed.lane, ids(claimed)) == ("app_1", "live", [first, second])


async def test_a_backfill_change_leaves_its_appointment_live(database: Database) -> None:
    """What waits in the live lane stays there when backfill comes along, and goes out with it."""
    store = await registered(database)
    await database.write("app_0", {"note": "other live"})
    await store.take_in(["default"])
    first = await database.write("app_1", {"note": "live"})
    await store.take_in(["default"])
    second = await database.write("app_1", {"room_id": 1}, lane="backfill")
    await store.take_in(["default"])
    claims = await claim(store, 2)
    assert [(one.lane, ids(one)) for one in claims if one.appointment_id == "app_1"] == [("live", [first, second])]


async def test_backfill_after_live_is_backfill_again(database: Database) -> None:
    """Once its live change is settled, an appointment's next backfill waits in the backfill lane."""
    store = await registered(database)
    await database.write("app_1", {"note": "live"})
    await settle(store, accepted(await the_claim(store)))
    await database.write("app_1", {"note": "backfill"}, lane="backfill")
    assert (await the_claim(store)).lane == "backfill"


async def test_a_leased_appointment_is_not_claimed(database: Database) -> None:
    """While a lease lasts nobody else gets the appointment, whatever arrives for it."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    held = await the_claim(store)
    await database.write("app_1", {"note": "b"})
    await store.take_in(["default"])
    assert await claim(store, 10) == []
    assert await settle(store, accepted(held)) == []


async def test_a_dead_holder_is_fenced_out(database: Database) -> None:
    """After a lease ran out the appointment is claimed by somebody else. The old holder's settle is told that it lost,
    and leaves states, synced state and queue as they are; only the attempt, which is a fact, is written."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    old = await the_claim(store, lease_s=0.2)
    other = Store(database.workers, worker="worker-2")
    (new,) = await eventually(lambda: claim(other), what="the appointment is claimed again")
    assert new.token != old.token
    assert ids(new) == ids(old)

    before = await snapshot(database, "queue", "outbox", "appointment")
    late = accepted(old, {"note": "late"})
    assert await settle(store, late) == [late]
    assert await snapshot(database, "queue", "outbox", "appointment") == before
    assert await database.value("SELECT array_agg(change_ids) FROM caspen_sync.attempt") == [ids(old)]

    assert await settle(other, accepted(new)) == []
    assert await database.states() == {"synced": 1}
    settled = await snapshot(database, "queue", "outbox", "appointment")
    assert await settle(store, late) == [late]
    assert await snapshot(database, "queue", "outbox", "appointment") == settled


async def test_a_lease_that_ran_out_is_lost_even_if_nobody_took_it(database: Database) -> None:
    """What counts is the database's clock, not whether somebody was quick enough to claim."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    held = await the_claim(store, lease_s=0.2)
    await lease_over(database, held)
    before = await snapshot(database, "queue", "outbox", "appointment")
    late = accepted(held)
    assert await settle(store, late) == [late]
    assert await snapshot(database, "queue", "outbox", "appointment") == before
    assert ids(await the_claim(store)) == ids(held)


async def test_a_settle_counts_once(database: Database) -> None:
    """Writing the same settlement twice, as when a commit's answer got lost, settles once, and is no lost lease."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    once = accepted(await the_claim(store))
    assert await settle(store, once) == []
    assert await settle(store, once) == []
    assert await database.value("SELECT attempts FROM caspen_sync.outbox") == 1
    assert await database.value("SELECT count(*) FROM caspen_sync.attempt") == 1


async def test_losers_do_not_hurt_the_rest_of_their_batch(database: Database) -> None:
    """Of a batch exactly the settlements without a lease are reported; the others are written."""
    store = await registered(database)
    for appointment_id in ("app_1", "app_2", "app_3"):
        await database.write(appointment_id, {"note": "a"})
    await store.take_in(["default"])
    (short,) = await claim(store, lease_s=0.2)
    await lease_over(database, short)
    await eventually(lambda: claim(store), what="the appointment is claimed again")
    first, second = await claim(store, 2)
    late = accepted(short)
    assert await settle(store, accepted(first), late, accepted(second)) == [late]
    assert await database.states() == {"synced": 2, "pending": 1}


async def test_a_batch_of_several_accounts(database: Database) -> None:
    """The same appointment of two accounts, in one batch, of which one has lost its lease: to each its own."""
    held = {}
    for account, lease_s in (("a", 0.2), ("b", 60.0), ("c", 60.0)):
        store = await registered(database, account=account)
        await database.write("app_1", {"note": account}, account=account)
        await store.take_in([account])
        (held[account],) = await claim(store, account=account, lease_s=lease_s)
    await lease_over(database, held["a"])
    batch = [accepted(one, {"note": account}) for account, one in held.items()]
    assert await settle(store, *batch) == [batch[0]]
    states = await database.rows("SELECT account, state FROM caspen_sync.outbox ORDER BY account")
    assert [tuple(row) for row in states] == [("a", "pending"), ("b", "synced"), ("c", "synced")]
    kept = await database.rows("SELECT account, resource ->> 'note' FROM caspen_sync.appointment ORDER BY account")
    assert [tuple(row) for row in kept] == [("b", "b"), ("c", "c")]


async def test_a_change_in_flight_makes_due_again(database: Database) -> None:
    """A change that arrives while its appointment is claimed stays pending, and is claimable right after the settle."""
    store = await registered(database)
    first = await database.write("app_1", {"note": "a"})
    held = await the_claim(store)
    second = await database.write("app_1", {"note": "b"})
    await store.take_in(["default"])
    await settle(store, accepted(held, {"note": "a"}))
    assert await database.value("SELECT last_change_id FROM caspen_sync.appointment") == first
    (again,) = await claim(store)
    assert ids(again) == [second]
    await settle(store, accepted(again, {"note": "b"}))
    assert await database.states() == {"synced": 2}
    assert await database.value(IDLE)


async def test_a_change_not_taken_in_makes_due_later(database: Database) -> None:
    """The same when the change is only taken in after the settle."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    held = await the_claim(store)
    second = await database.write("app_1", {"note": "b"})
    await settle(store, accepted(held))
    assert await claim(store) == []
    assert ids(await the_claim(store)) == [second]


async def test_a_change_that_a_claim_has_read_makes_nothing_due(database: Database) -> None:
    """A claim may read a change before it is taken in; its arrival then costs no empty claim."""
    store = await registered(database)
    first = await database.write("app_1", {"note": "a"})
    await store.take_in(["default"])
    second = await database.write("app_1", {"note": "b"})
    (held,) = await claim(store)
    assert ids(held) == [first, second]
    await settle(store, accepted(held))
    assert await store.take_in(["default"]) == {"default": 1}
    assert await claim(store) == []
    assert await database.value(IDLE)


async def test_a_backoff_is_not_cut_short_by_a_change(database: Database) -> None:
    """A change that arrives while its appointment backs off waits along, and folds into the next request."""
    store = await registered(database)
    first = await database.write("app_1", {"note": "a"})
    await settle(store, settlement(await the_claim(store), due_in_s=0.5))
    due_at = await database.value("SELECT due_at FROM caspen_sync.queue")
    second = await database.write("app_1", {"note": "b"})
    await store.take_in(["default"])
    assert await database.value("SELECT due_at FROM caspen_sync.queue") == due_at
    (again,) = await eventually(lambda: claim(store), what="the backoff ends")
    assert await database.value("SELECT clock_timestamp()") >= due_at
    assert ids(again) == [first, second]
    assert (again.failures, again.changes[0].attempts, again.changes[1].attempts) == (1, 1, 0)


async def test_part_size_limits_the_next_claim(database: Database) -> None:
    """After a refusal the next claims bring at most so many changes, from the oldest on, until it is lifted."""
    store = await registered(database)
    written = [await database.write("app_1", {"room_id": number}) for number in range(5)]
    held = await the_claim(store)
    await settle(store, replace(settlement(held, due_in_s=0.0), part_size=2))
    (part,) = await claim(store)
    assert (ids(part), part.part_size) == (written[:2], 2)
    await settle(store, replace(accepted(part), part_size=None))
    (rest,) = await claim(store)
    assert ids(rest) == written[2:]


async def test_a_claim_is_capped(database: Database) -> None:
    """2,500 changes of one appointment come in three claims, in order; none is left behind."""
    store = await registered(database)
    await database.pool.execute(
        "INSERT INTO caspen_sync.outbox (appointment_id, changes) "
        "SELECT 'app_1', jsonb_build_object('room_id', n) FROM generate_series(1, 2500) n"
    )
    while await store.take_in(["default"]):
        pass
    sizes: list[int] = []
    sent: list[int] = []
    while claims := await claim(store, max_changes=10_000):
        sizes.append(len(claims[0].changes))
        sent += ids(claims[0])
        await settle(store, accepted(claims[0]))
    assert sizes == [MAX_CHANGES_PER_CLAIM, MAX_CHANGES_PER_CLAIM, 500]
    assert sent == sorted(sent)
    assert await database.states() == {"synced": 2500}
    assert await database.value(IDLE)


@pytest.mark.parametrize("arrives", ["nothing", "before", "after"])
async def test_an_empty_claim_loses_nothing(database: Database, arrives: str) -> None:
    """A claim whose changes were settled elsewhere is given back to idle; what arrives meanwhile becomes due."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    await store.take_in(["default"])
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'discarded'")
    (held,) = await claim(store)
    assert held.changes == ()
    written = [] if arrives == "nothing" else [await database.write("app_1", {"note": "b"})]
    if arrives == "before":
        await store.take_in(["default"])
    assert await settle(store, policy.release(held)) == []
    assert await database.value(IDLE) == (arrives != "before")
    await store.take_in(["default"])
    assert [ids(one) for one in await claim(store)] == [written] * len(written)


@pytest.mark.parametrize("place", ["fields", "resource"])
async def test_an_answer_that_cannot_be_stored_writes_nothing(database: Database, place: str) -> None:
    """A NUL in one answer fails the whole batch, and nothing of it is written; the others can be written without it."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    await database.write("app_2", {"note": "a"})
    await store.take_in(["default"])
    good, bad = (accepted(one) for one in await claim(store, 2))
    assert bad.answer is not None
    broken = {
        "fields": replace(bad.answer, fields=NUL),
        "resource": replace(bad.answer, resource=NUL),
    }[place]
    tables = ("queue", "outbox", "appointment", "attempt", "rate_slot")
    before = await snapshot(database, *tables)
    with pytest.raises(asyncpg.DataError):
        await settle(store, good, replace(bad, answer=broken))
    assert await snapshot(database, *tables) == before
    assert await settle(store, good, bad) == []
    assert await database.states() == {"synced": 2}


async def test_only_pending_changes_are_settled(database: Database) -> None:
    """A change that a person discarded while it was on the wire stays discarded."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    held = await the_claim(store)
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'discarded', finished_at = now()")
    assert await settle(store, accepted(held)) == []
    assert await database.states() == {"discarded": 1}


async def test_a_parked_change_leaves_the_others_alone(database: Database) -> None:
    """Of the changes of one claim each gets its own verdict; what stays pending is claimed again."""
    store = await registered(database)
    written = [await database.write("app_1", {"room_id": number}) for number in range(3)]
    held = await the_claim(store)
    verdicts = (
        Verdict(change_id=written[0], state="synced", charged=1, error=None),
        Verdict(change_id=written[1], state="parked", charged=1, error="room_id: no such room"),
        Verdict(change_id=written[2], state=None, charged=0, error=None),
    )
    await settle(store, replace(settlement(held, due_in_s=0.0), verdicts=verdicts))
    rows = await database.rows("SELECT state, attempts, last_error, finished_at FROM caspen_sync.outbox ORDER BY id")
    assert [(row["state"], row["attempts"], row["last_error"]) for row in rows] == [
        ("synced", 1, None),
        ("parked", 1, "room_id: no such room"),
        ("pending", 0, None),
    ]
    assert [row["finished_at"] is None for row in rows] == [False, False, True]
    assert [ids(one) for one in await claim(store)] == [[written[2]]]
