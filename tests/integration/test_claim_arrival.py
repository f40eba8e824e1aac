"""A change that comes to an idle account is taken in and claimed by one statement, as by two, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from tests.support.claims import (
    LEASE_S,
    TIMEOUT_S,
    accepted,
    blocked,
    claim,
    claim_arrival,
    ids,
    limits,
    registered,
    settle,
    settlement,
    snapshot,
    somebody_waits,
    the_claim,
)
from tests.support.database import Database
from tests.support.processes import DIRECT, TOKEN, environment, services, stop
from tests.support.waiting import eventually
from worker.claims import Claim
from worker.contract import BODY_MAX_BYTES
from worker.sandbox import Sandbox, SandboxSettings
from worker.store import Store

TABLES = ("arrival", "queue", "rate_slot", "outbox")


async def claimed_first(store: Store, *, max_changes: int = 1000) -> Claim:
    got = await claim_arrival(store, max_changes=max_changes)
    assert got is not None
    assert got[1] is False
    return got[0]


async def held(database: Database, appointment_id: str) -> asyncpg.Record:
    (row,) = await database.rows(
        "SELECT lane, failures, part_size, newest_id, again, worker, turned_away_at, token IS NOT NULL AS fenced, "
        "extract(epoch FROM leased_until - now())::int AS leased_s, leased_until = due_at AS due_then "
        "FROM caspen_sync.queue WHERE appointment_id = $1",
        appointment_id,
    )
    return row


async def known(database: Database, store: Store, *appointments: str) -> None:
    """Appointments that were synced before, by a backfill."""
    for appointment_id in appointments:
        await database.write(appointment_id, {"note": "before"}, lane="backfill")
        await settle(store, accepted(await the_claim(store)))


# -- what it gives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen_before", [False, True])
async def test_it_gives_what_two_statements_give(database: Database, seen_before: bool) -> None:
    """Two appointments with the same past and the same changes, one taken in and then claimed, the other at once: the
    same claim, the same lease, a slot each, and nothing that has arrived is left."""
    store = await registered(database)
    if seen_before:
        await known(database, store, "by_two", "by_one")
    written: dict[str, list[int]] = {}
    got: dict[str, Claim] = {}
    for appointment_id, take in (("by_two", the_claim), ("by_one", claimed_first)):
        written[appointment_id] = [await database.write(appointment_id, {"note": "a", "room_id": 7})]
        got[appointment_id] = await take(store)
    two, one = got["by_two"], got["by_one"]
    assert [ids(claimed) for claimed in got.values()] == list(written.values())
    assert [change.changes for change in one.changes] == [change.changes for change in two.changes]
    assert one.newest_id >= 1
    assert one.slot.number != two.slot.number
    assert abs((one.slot.free_at - two.slot.free_at).total_seconds()) < 30
    assert (
        replace(
            one, appointment_id="by_two", token=two.token, changes=two.changes, newest_id=two.newest_id, slot=two.slot
        )
        == two
    )
    rows = [dict(await held(database, name)) for name in ("by_two", "by_one")]
    assert [row.pop("newest_id") for row in rows] == [written["by_two"][0], written["by_one"][0]]
    assert abs(rows[0].pop("leased_s") - rows[1].pop("leased_s")) < 30
    assert rows[0] == rows[1]
    assert await database.rows("SELECT FROM caspen_sync.arrival") == []
    free_at = "SELECT free_at FROM caspen_sync.rate_slot WHERE slot = $1"
    assert [await database.value(free_at, claimed.slot.number) for claimed in (one, two)] == [
        one.slot.free_at,
        two.slot.free_at,
    ]


async def test_it_is_settled_as_any_claim(database: Database) -> None:
    """With its token: the change is synced, and the appointment idle."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    assert await settle(store, accepted(await claimed_first(store))) == []
    assert await database.states() == {"synced": 1}
    assert await claim(store) == []


async def test_all_pending_changes_go_along(database: Database) -> None:
    """Whatever is pending for the appointment is folded in, in id order, up to the most that a claim holds; the rest
    has arrived, and is told of."""
    store = await registered(database)
    written = [await database.write("app_1", {"room_id": number}) for number in range(5)]
    got = await claim_arrival(store, max_changes=3)
    assert got is not None
    assert (ids(got[0]), got[1]) == (written[:3], True)
    await settle(store, accepted(got[0]))
    assert sum((await store.take_in(["default"])).values()) == 4
    assert ids((await claim(store))[0]) == written[3:]


async def test_after_a_refusal_no_more_are_folded_than_before(database: Database) -> None:
    """Where the API has stumbled over a fold, the appointment knows how many changes it takes."""
    store = await registered(database)
    await known(database, store, "app_1")
    await database.pool.execute("UPDATE caspen_sync.queue SET part_size = 2")
    written = [await database.write("app_1", {"room_id": number}) for number in range(3)]
    got = await claim_arrival(store)
    assert got is not None
    assert (ids(got[0]), got[0].part_size, got[1]) == (written[:2], 2, True)


@pytest.mark.parametrize("seen_before", [False, True])
async def test_one_behind_those_that_go_out_first_is_not_forgotten(database: Database, seen_before: bool) -> None:
    """Its arrival is gone, and it was not read: the queue knows of it, and it is due after the others."""
    store = await registered(database)
    if seen_before:
        await known(database, store, "app_1")
    old = await database.write("app_1", {"note": "old"}, lane="backfill")
    live = await database.write("app_1", {"note": "live"})
    got = await claim_arrival(store, max_changes=1)
    assert got is not None
    assert (ids(got[0]), got[1]) == ([old], True)
    assert await settle(store, accepted(got[0])) == []
    assert ids((await claim(store))[0]) == [live]


async def test_one_whose_elder_is_just_taken_in_is_not_forgotten(database: Database) -> None:
    """The elder's arrival is held by somebody who takes it in and is slow; the younger one's is taken at once."""
    store = await registered(database)
    await database.write("app_0", {"note": "0"})
    await store.take_in(["default"])
    async with database.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM caspen_sync.queue WHERE appointment_id = 'app_0' FOR UPDATE")
        await database.write("app_0", {"note": "00"})
        elder = await database.write("app_1", {"note": "a"})
        taking_in = asyncio.create_task(store.take_in(["default"]))
        await somebody_waits(database)
        younger = await database.write("app_1", {"note": "b"})
        got = await claim_arrival(store, max_changes=1)
    assert await taking_in == {"default": 2}
    assert got is not None
    assert ids(got[0]) == [elder]
    assert await settle(store, accepted(got[0])) == []
    due = {one.appointment_id: ids(one) for one in await claim(store, 10)}
    assert due["app_1"] == [younger]


@pytest.mark.parametrize("take", [the_claim, claimed_first])
async def test_what_an_idle_appointment_went_through_counts(
    database: Database, take: Callable[[Store], Awaitable[Claim]]
) -> None:
    """It was turned away with its account and brought back, and then the changes that this was for were cancelled. What
    the API says next is about itself, and that it was brought back is done with."""
    store = await registered(database)
    await known(database, store, "app_1")
    await database.pool.execute(
        "UPDATE caspen_sync.queue SET again = 1, turned_away_at = now() - interval '1 hour'; "
        "UPDATE caspen_sync.account SET welcomed_at = now()"
    )
    await database.write("app_1", {"note": "a"})
    claimed = await take(store)
    assert claimed.suspect
    assert await settle(store, accepted(claimed)) == []
    assert await claim(store) == []


async def test_another_arrival_is_told_of(database: Database) -> None:
    """Also one of the other lane. The one that came first goes first."""
    store = await registered(database)
    await database.write("app_2", {"note": "a"}, lane="backfill")
    one = await database.write("app_1", {"note": "a"})
    got = await claim_arrival(store)
    assert got is not None
    assert (ids(got[0]), got[1]) == ([one], True)
    assert await store.take_in(["default"]) == {"default": 1}


async def test_a_body_that_is_too_large_comes_without_it(database: Database) -> None:
    """As with any claim, only its id comes back."""
    store = await registered(database)
    await database.write("app_1", {"note": "n" * BODY_MAX_BYTES})
    assert [change.changes for change in (await claimed_first(store)).changes] == [None]


async def test_what_was_brought_back_knows_what_is_newer(database: Database) -> None:
    """A pending change that is older than what was sent since says which fields that has set."""
    store = await registered(database)
    old = await database.write("app_1", {"note": "old"})
    await store.take_in(["default"])
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'parked' WHERE id = $1", old)
    await known(database, store, "app_1")
    await database.pool.execute(
        "UPDATE caspen_sync.outbox SET state = 'pending', finished_at = NULL WHERE id = $1", old
    )
    new = await database.write("app_1", {"room_id": 7})
    claimed = await claimed_first(store)
    assert ids(claimed) == [old, new]
    assert [change.superseded for change in claimed.changes] == [frozenset({"note"}), frozenset()]


# -- what is in the way ----------------------------------------------------------------------------------------------


async def _nothing_done(database: Database, store: Store) -> None:
    before = await snapshot(database, *TABLES)
    assert await claim_arrival(store) is None
    assert await snapshot(database, *TABLES) == before


@pytest.mark.parametrize("kind", ["throttled", "down", "rejected", "refused", "manual"])
async def test_a_paused_account_yields_nothing(database: Database, kind: str) -> None:
    """Whatever the pause is for, and where it takes a probe to end it, also when its time is up."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    pause = "UPDATE caspen_sync.account SET pause_kind = $1, paused_until = $2::text::timestamptz"
    await database.pool.execute(pause, kind, "infinity")
    await _nothing_done(database, store)
    await database.pool.execute(pause, kind, "2000-01-01")
    if kind == "throttled":
        assert await claim_arrival(store)
    else:
        await _nothing_done(database, store)


async def test_without_a_free_slot_nothing_is_taken_in(database: Database) -> None:
    """The budget is one and the same."""
    store = await registered(database, limits(1))
    await database.write("app_1", {"note": "a"})
    await the_claim(store)
    await database.write("app_2", {"note": "a"})
    await _nothing_done(database, store)


async def test_a_backfill_waits_for_the_usual_claim(database: Database) -> None:
    """Which knows of the reserve."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"}, lane="backfill")
    await _nothing_done(database, store)


@pytest.mark.parametrize("due_in_s", [600.0, 0.0, None])
async def test_an_appointment_that_is_not_idle_is_left(database: Database, due_in_s: float | None) -> None:
    """One that is held by a lease, backs off, or is due."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    held_by_another = await the_claim(store)
    if due_in_s is not None:
        await settle(store, settlement(held_by_another, due_in_s=due_in_s))
    await database.write("app_1", {"note": "b"})
    await _nothing_done(database, store)


@pytest.mark.parametrize("table", ["arrival", "queue", "rate_slot"])
async def test_it_does_not_wait_for_whoever_is_at_it(database: Database, table: str) -> None:
    """A row of it that somebody holds is left to them."""
    store = await registered(database, limits(1))
    await known(database, store, "app_1")
    await database.pool.execute("UPDATE caspen_sync.rate_slot SET free_at = now()")
    await database.write("app_1", {"note": "b"})
    async with database.pool.acquire() as conn, conn.transaction():
        await conn.execute(f"SELECT FROM caspen_sync.{table} FOR UPDATE")
        async with asyncio.timeout(10):
            assert await claim_arrival(store) is None
    assert ids(await claimed_first(store)) != []


async def test_it_does_not_wait_for_what_is_written_back(database: Database) -> None:
    """One that is on the wire, and just being settled, is left; no slot is held meanwhile."""
    store = await registered(database)
    await database.write("app_1", {"note": "a"})
    await the_claim(store)
    await database.write("app_1", {"note": "b"})
    async with database.pool.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE caspen_sync.queue SET worker = 'another'")
        async with asyncio.timeout(10):
            assert await claim_arrival(store) is None


async def test_nothing_has_arrived(database: Database) -> None:
    """Neither does an account that nobody wrote down."""
    store = await registered(database)
    await _nothing_done(database, store)
    assert await store.claim_arrival("other", timeout_s=TIMEOUT_S, lease_s=LEASE_S, max_changes=1) is None


# -- others who are as quick -----------------------------------------------------------------------------------------


async def test_many_at_once(database: Database) -> None:
    """One of them gets it, and the others nothing."""
    store = await registered(database)
    for number in range(20):
        await database.write("app_1", {"room_id": number})
        got = await asyncio.gather(*(claim_arrival(store) for _ in range(8)))
        (claimed,) = [one[0] for one in got if one is not None]
        assert [change.changes["room_id"] for change in claimed.changes] == [number]
        assert await settle(store, accepted(claimed)) == []


@asynccontextmanager
async def slow(database: Database) -> AsyncIterator[tuple[asyncio.Task[Any], asyncpg.Connection]]:
    """The statement after it has taken its snapshot, and before it has looked at anything: it reads the account through
    a view that waits. The connection that it waits for is in a transaction."""
    await database.pool.execute(
        """
        ALTER TABLE caspen_sync.account RENAME TO account_itself;
        CREATE FUNCTION caspen_sync.is_awaited() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            IF current_setting('test.waits', true) = 'on' THEN PERFORM pg_advisory_xact_lock_shared(7); END IF;
            RETURN true;
        END $$;
        CREATE VIEW caspen_sync.account AS SELECT * FROM caspen_sync.account_itself WHERE caspen_sync.is_awaited();
        """
    )
    holder = await asyncpg.connect(database.dsn)
    await holder.execute("BEGIN; SELECT pg_advisory_xact_lock(7)")
    async with asyncpg.create_pool(
        database.dsn, min_size=1, max_size=1, server_settings={"test.waits": "on"}
    ) as connections:
        async with connections.acquire() as conn:
            pid = conn.get_server_pid()
        task = asyncio.create_task(claim_arrival(Store(connections, worker="slow")))
        await blocked(database, pid)
        yield task, holder
    await holder.close()


@pytest.mark.parametrize("seen_before", [False, True])
async def test_what_was_dealt_with_since_is_not_sent_again(database: Database, seen_before: bool) -> None:
    """Two changes, both pending in an old snapshot. Somebody else claims them by the first one's arrival and settles
    them; the second one's arrival is still there, and does not bring them back."""
    store = await registered(database)
    if seen_before:
        await known(database, store, "app_1")
    await database.write("app_1", {"note": "a"})
    await database.write("app_1", {"note": "b"})
    async with slow(database) as (late, holder):
        quick = await claim_arrival(store)
        assert quick is not None
        assert len(quick[0].changes) == 2
        assert await settle(store, accepted(quick[0])) == []
        await holder.execute("COMMIT")
        assert await late is None
    assert await claim_arrival(store) is None
    assert await store.take_in(["default"]) == {"default": 1}
    assert await claim(store) == []


async def test_each_claim_has_a_token_of_its_own(database: Database) -> None:
    """Of another appointment, and of the same one again: else who held one claim could write back another's."""
    store = await registered(database)
    tokens = set()
    for appointment in ("app_1", "app_2", "app_1"):
        await database.write(appointment, {"note": "n"})
        held_now = await claimed_first(store)
        tokens.add(held_now.token)
        assert await settle(store, accepted(held_now)) == []
    assert len(tokens) == 3


# -- by a service ----------------------------------------------------------------------------------------------------


async def test_what_came_along_does_not_wait_for_a_poll(database: Database) -> None:
    """Three appointments in one commit, which is told of once: the first is claimed at once, the others right after."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(database.dsn, sandbox.base_url, DIRECT | {"WORKER__POLL_S": "60"})
        async with services(1, env) as (worker,):
            for number in range(2):
                async with database.pool.acquire() as conn, conn.transaction():
                    for name in ("a", "b", "c"):
                        await database.write(f"app_{number}{name}", {"note": "n"}, conn=conn)
                await eventually(
                    lambda: database.value("SELECT bool_and(state = 'synced') FROM caspen_sync.outbox"),
                    what="all are synced",
                )
            assert await stop(worker) == 0
