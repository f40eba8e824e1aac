"""Many workers at once: an appointment is claimed by one of them, and no change goes out twice or out of order."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.claims import (
    accepted,
    claim,
    claim_arrival,
    ids,
    lease_over,
    limits,
    registered,
    row_locked,
    settle,
    settlement,
    somebody_waits,
    the_claim,
)
from tests.support.database import Database
from tests.support.stale import stale_claim
from worker.claims import Claim
from worker.store import Store

WORKERS = 8


async def test_an_appointment_has_one_holder(database: Database) -> None:
    """Round after round, many claimers over few appointments: each appointment goes to exactly one of them."""
    store = await registered(database)
    appointments = [f"app_{number}" for number in range(4)]
    for appointment_id in appointments:
        await database.write(appointment_id, {"note": NOTE})
    await store.take_in(["default"])
    for _ in range(25):
        rounds = await asyncio.gather(*(claim(store, 3) for _ in range(WORKERS)))
        got = [one for claims in rounds for one in claims]
        while more := await claim(store, 10):
            got += more
        assert sorted(one.appointment_id for one in got) == appointments
        assert len({one.token for one in got}) == len(appointments)
        assert await settle(store, *(settlement(one, due_in_s=0.0) for one in got)) == []


async def test_expired_leases_have_one_heir(database: Database) -> None:
    """When many wait for a lease to run out, one of them gets the appointment."""
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    held = await the_claim(store, lease_s=0.2)
    heirs: list[Claim] = []

    async def wait_for_it() -> None:
        while not heirs:
            heirs.extend(await claim(store))

    async with asyncio.timeout(20):
        await asyncio.gather(*(wait_for_it() for _ in range(WORKERS)))
    assert len(heirs) == 1
    assert heirs[0].token != held.token


@pytest.mark.parametrize("seed", range(3))
async def test_no_change_goes_out_twice_or_out_of_order(database: Database, seed: int) -> None:
    """Writers, takers-in and workers without pause on few appointments: never two holders at once, each change goes
    out exactly once, in id order, with every older change before it; and at the end nothing is pending."""
    chance = random.Random(seed)
    await registered(database, limits(1000, rate_window_s=0.01, rate_guard_s=0))
    appointments = [f"app_{number}" for number in range(3)]
    holders: set[str] = set()
    sent: dict[str, list[int]] = defaultdict(list)
    writing = True

    async def write(writer: int) -> None:
        async with database.pool.acquire() as conn:
            for number in range(60):
                async with conn.transaction():
                    for appointment_id in sorted(chance.sample(appointments, chance.randint(1, 2))):
                        lane = chance.choice(["live", "backfill"])
                        changes = {"room_id": number, "note": f"{writer}"}
                        await database.write(appointment_id, changes, lane=lane, conn=conn)

    async def work(number: int) -> None:
        store = Store(database.workers, worker=f"worker-{number}")
        while True:
            wrote_before = writing
            most = chance.choice([2, 1000])
            if chance.random() < 0.5 and (got := await claim_arrival(store, timeout_s=0.01, max_changes=most)):
                taken, claims = {"default": 1}, [got[0]]
            else:
                taken = await store.take_in(["default"])
                claims = await claim(store, chance.randint(1, 3), timeout_s=0.01, max_changes=most)
            for one in claims:
                assert one.appointment_id not in holders
                holders.add(one.appointment_id)
                sent[one.appointment_id] += ids(one)
            await asyncio.sleep(0)
            holders.difference_update(one.appointment_id for one in claims)
            assert await settle(store, *map(accepted, claims), rest_s=0.01) == []
            if not (wrote_before or taken or claims or await database.states() != {"synced": total}):
                return

    total = 0
    async with asyncio.timeout(60):
        workers = [asyncio.create_task(work(number)) for number in range(WORKERS)]
        await asyncio.gather(*(write(writer) for writer in range(4)))
        total = await database.value("SELECT count(*) FROM caspen_sync.outbox")
        writing = False
        await asyncio.gather(*workers)
    for appointment_id in appointments:
        written = "SELECT array_agg(id ORDER BY id) FROM caspen_sync.outbox WHERE appointment_id = $1"
        assert sent[appointment_id] == await database.value(written, appointment_id)
    assert await database.value("SELECT count(*) FROM caspen_sync.queue WHERE due_at < 'infinity'") == 0


async def test_a_stale_claim_skips_what_was_dealt_with(database: Database) -> None:
    """A claim that looks at the queue late, with an old snapshot, does not send what another worker claimed and
    settled in between, although in its snapshot that is pending and due."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    await store.take_in(["default"])
    holder, stale = await stale_claim(database, store)
    try:
        (quick,) = await claim(store)
        second = await database.write("app_1", {"note": "b"})
        await store.take_in(["default"])
        assert await settle(store, accepted(quick)) == []
    finally:
        await holder.execute("COMMIT")
        await holder.close()
    assert [one.appointment_id for one in await stale if one.account == "default"] == []
    (next_one,) = await claim(store)
    assert ids(next_one) == [second]


async def test_a_stale_claim_skips_what_was_settled_at_the_last_moment(database: Database) -> None:
    """The same when the settle began while its lease lasted and ended after: a claim that saw the lease as run out does
    not send what the settle wrote down as done."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    await settle(store, accepted(await the_claim(store)))
    second = await database.write("app_1", {"note": "b"})
    held = await the_claim(store, lease_s=1.0)
    third = await database.write("app_1", {"note": "c"})
    await store.take_in(["default"])

    slow = await asyncpg.connect(database.dsn)
    await slow.execute("BEGIN")
    await slow.execute("SELECT FROM caspen_sync.appointment FOR UPDATE")
    settling = asyncio.create_task(settle(store, accepted(held)))
    await row_locked(database, "queue")
    await lease_over(database, held)
    holder, stale = await stale_claim(database, store)
    await slow.execute("COMMIT")
    await slow.close()
    assert await settling == []
    await holder.execute("COMMIT")
    await holder.close()

    late = [one for one in await stale if one.account == "default"]
    claims = late or await claim(store)
    assert second not in [change for one in claims for change in ids(one)]
    assert [ids(one) for one in claims] == [[third]]


async def test_a_settle_that_comes_again_while_the_first_one_commits(database: Database) -> None:
    """The connection is lost while the commit is under way, and the batch comes again before that is over: it is
    written once, and no lease is lost."""
    store, other = await registered(database), await registered(database)
    await database.write("app_1", {"note": "a"})
    once = accepted(await the_claim(store))
    holder = await asyncpg.connect(database.dsn)
    await holder.execute("BEGIN")
    await holder.execute("SELECT FROM caspen_sync.rate_slot WHERE slot = $1 FOR UPDATE", once.claim.slot.number)
    try:
        first = asyncio.create_task(settle(store, once))
        await row_locked(database, "queue")
        again = asyncio.create_task(settle(other, once))
        await somebody_waits(database, count=2)
    finally:
        await holder.execute("COMMIT")
        await holder.close()
    assert [await first, await again] == [[], []]
    assert await database.value("SELECT attempts FROM caspen_sync.outbox") == 1
    assert await database.value("SELECT count(*) FROM caspen_sync.attempt") == 1


async def test_a_lease_that_runs_out_while_a_lock_is_waited_for_is_lost(database: Database) -> None:
    """Of a batch that waits for one row, the leases of all are judged once it is had."""
    store = await registered(database)
    for appointment in ("app_1", "app_2"):
        await database.write(appointment, {"note": "a"})
    await store.take_in(["default"])
    held = await claim(store, 2, lease_s=1.0)
    holder = await asyncpg.connect(database.dsn)
    await holder.execute("BEGIN")
    await holder.execute("SELECT FROM caspen_sync.queue WHERE appointment_id = 'app_2' FOR UPDATE")
    try:
        late = [accepted(one) for one in held]
        settling = asyncio.create_task(settle(store, *late))
        await somebody_waits(database)
        for one in held:
            await lease_over(database, one)
    finally:
        await holder.execute("COMMIT")
        await holder.close()
    assert await settling == late
    assert await database.value("SELECT count(*) FROM caspen_sync.outbox WHERE state <> 'pending'") == 0


async def test_taking_in_waits_for_nobody(database: Database) -> None:
    """What another worker is just taking in is left to it, and the rest is taken."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    holder = await asyncpg.connect(database.dsn)
    await holder.execute("BEGIN")
    await holder.execute("SELECT FROM caspen_sync.arrival FOR UPDATE")
    try:
        await database.write("app_2", {"note": "b"})
        async with asyncio.timeout(10):
            assert await store.take_in(["default"]) == {"default": 1}
    finally:
        await holder.execute("COMMIT")
        await holder.close()
    assert await store.take_in(["default"]) == {"default": 1}
