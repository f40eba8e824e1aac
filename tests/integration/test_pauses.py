"""Pauses of an account: nobody claims while they last, and one probe at a time finds out whether they are over."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.claims import TIMEOUT_S, accepted, claim, registered, settle, settlement, stopped
from tests.support.database import Database
from tests.support.waiting import eventually
from worker import clock
from worker.claims import Claim, PauseKind
from worker.store import Store

CLAIMERS = 12


async def account(database: Database) -> asyncpg.Record:
    (row,) = await database.rows(
        "SELECT *, clock_timestamp() AS now, extract(epoch FROM paused_until - paused_at)::float8 AS lasts_s "
        "FROM caspen_sync.account WHERE account = 'default'"
    )
    return row


async def due(database: Database, store: Store, count: int = 20) -> None:
    for number in range(count):
        await database.write(f"app_{number}", {"note": NOTE})
    await store.take_in(["default"])


async def claims_of_many(store: Store, lease_s: float = 60.0) -> list[Claim]:
    rounds = await asyncio.gather(*(claim(store, 5, lease_s=lease_s) for _ in range(CLAIMERS)))
    return [one for claims in rounds for one in claims]


@pytest.mark.parametrize("kind", ["throttled", "refused"])
async def test_a_paused_account_yields_nothing(database: Database, kind: PauseKind) -> None:
    """While a pause lasts there are no claims and no slots for retries; other accounts go on."""
    store = await registered(database)
    other = await registered(database, account="other")
    await due(database, store)
    held, last = await claim(store, 2)
    await settle(store, stopped(held, kind, wait_s=600))
    assert await claims_of_many(store) == []
    assert await store.take_slot(last, timeout_s=TIMEOUT_S) is None
    await database.write("app_1", {"note": NOTE}, account="other")
    await other.take_in(["other"])
    assert len(await claim(other, account="other")) == 1


async def test_a_held_claim_settles_during_a_pause(database: Database) -> None:
    """What was on the wire before the pause is written back as ever."""
    store = await registered(database)
    await due(database, store, 2)
    held, last = await claim(store, 2)
    await settle(store, stopped(held, "refused", wait_s=600))
    assert await settle(store, accepted(last)) == []
    assert (await account(database))["pause_kind"] == "refused"


async def test_a_throttled_pause_ends_by_itself(database: Database) -> None:
    """Claims flow again when the time that the API asked for is over, and not earlier; no probe is needed."""
    store = await registered(database)
    await due(database, store)
    (held,) = await claim(store)
    await settle(store, stopped(held, "throttled", wait_s=0.5))
    claims = await eventually(lambda: claim(store, 5), what="the pause ends")
    paused = await account(database)
    assert paused["now"] >= paused["paused_until"]
    assert (len(claims), any(one.probing for one in claims)) == (5, False)


async def test_a_throttled_pause_is_never_shortened(database: Database) -> None:
    """Of two 429 the longer wait counts, whichever is written first."""
    store = await registered(database)
    await due(database, store)
    first, second = await claim(store, 2)
    await settle(store, stopped(first, "throttled", wait_s=600))
    until = (await account(database))["paused_until"]
    await settle(store, stopped(second, "throttled", wait_s=5))
    assert (await account(database))["paused_until"] == until


async def test_a_refused_account_waits_out_its_throttle(database: Database) -> None:
    """A 401 beside a 429 must not bring the next request forward: it waits for as long as the 429 asked."""
    store = await registered(database)
    await due(database, store)
    (first,) = await claim(store)
    await settle(store, stopped(first, "throttled", wait_s=600))
    until = (await account(database))["paused_until"]
    refused = stopped(first, "refused", wait_s=30)
    await settle(store, refused)
    paused = await account(database)
    assert paused["pause_kind"] == "refused"
    assert paused["paused_until"] >= until


async def test_a_refused_account_sends_one_probe_at_a_time(database: Database) -> None:
    """When the pause is over, exactly one of many claimers gets exactly one appointment, and nobody else anything
    until that probe's lease has run out."""
    store = await registered(database)
    await due(database, store)
    (held,) = await claim(store)
    await settle(store, stopped(held, "refused", wait_s=0.2))
    probes = await eventually(lambda: claims_of_many(store, lease_s=0.5), what="a probe")
    assert [one.probing for one in probes] == ["refused"]
    pushed = (await account(database))["paused_until"]
    next_probes = await eventually(lambda: claims_of_many(store, lease_s=60.0), what="the next probe")
    assert (await account(database))["now"] >= pushed
    assert [one.probing for one in next_probes] == ["refused"]
    assert await claims_of_many(store) == []


async def test_a_refused_pause_grows(database: Database) -> None:
    """Each refusal in a row doubles the wait, up to the longest."""
    store = await registered(database)
    await due(database, store)
    waits = []
    for _ in range(5):
        (one,) = await eventually(lambda: claim(store), what="a claim")
        await settle(store, stopped(one, "refused", wait_s=0.1, longest_s=0.5))
        paused = await account(database)
        waits.append(paused["lasts_s"])
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5], abs=0.05)
    assert paused["pauses"] == 5


async def test_refusals_of_one_moment_count_once(database: Database) -> None:
    """Eight requests on the wire when the token is revoked are one refusal, not eight."""
    store = await registered(database)
    await due(database, store)
    held = await claim(store, 8)
    refusals = [stopped(one, "refused", wait_s=30) for one in held]
    await settle(store, *refusals[:2])
    for refusal in refusals[2:]:
        await settle(store, refusal)
    paused = await account(database)
    assert (paused["pauses"], round(paused["lasts_s"])) == (1, 30)


async def test_a_throttled_probe_waits_and_stays_a_probe(database: Database) -> None:
    """A 429 during a refused pause prolongs it and leaves its kind: the next request is a probe again."""
    store = await registered(database)
    await due(database, store)
    first, second = await claim(store, 2)
    await settle(store, stopped(first, "refused", wait_s=0.1))
    await settle(store, stopped(second, "throttled", wait_s=0.5))
    paused = await account(database)
    assert (paused["pause_kind"], paused["pause_reason"]) == ("refused", "refused, says the API")
    probes = await eventually(lambda: claims_of_many(store), what="a probe")
    assert (await account(database))["now"] >= paused["paused_until"]
    assert [one.probing for one in probes] == ["refused"]


async def test_welcome_ends_the_pause(database: Database) -> None:
    """A probe that went through opens the account for everybody, and the next refusal starts from the shortest wait."""
    store = await registered(database)
    await due(database, store)
    (held,) = await claim(store)
    await settle(store, stopped(held, "refused", wait_s=0.1))
    (probe,) = await eventually(lambda: claim(store, 5), what="a probe")
    assert await settle(store, replace(accepted(probe), welcome=True)) == []
    welcome = await account(database)
    assert (welcome["paused_until"], welcome["pause_kind"], welcome["pauses"]) == (None, None, 0)
    assert [one.probing for one in await claim(store, 5)] == [None] * 5


async def test_welcome_leaves_a_throttle_alone(database: Database) -> None:
    """A probe's success says nothing about the budget: a 429's pause stands."""
    store = await registered(database)
    await due(database, store)
    first, second = await claim(store, 2)
    await settle(store, stopped(first, "throttled", wait_s=600))
    await settle(store, replace(accepted(second), welcome=True))
    assert (await account(database))["pause_kind"] == "throttled"
    assert await claim(store) == []


async def test_the_worst_pause_of_a_batch_counts(database: Database) -> None:
    """A 401 and a 429 in one batch pause the account as refused, for as long as the 429 asked."""
    store = await registered(database)
    await due(database, store)
    first, second = await claim(store, 2)
    await settle(store, stopped(first, "throttled", wait_s=600), stopped(second, "refused", wait_s=30))
    paused = await account(database)
    assert paused["pause_kind"] == "refused"
    assert paused["lasts_s"] > 590


async def test_a_refusal_from_before_a_pause_does_not_prolong_it(database: Database) -> None:
    """A refusal that is written late, of a request that started before the pause, leaves the pause as it is."""
    store = await registered(database)
    await due(database, store)
    first, second = await claim(store, 2)
    late = stopped(second, "refused", wait_s=30)
    await settle(store, stopped(first, "refused", wait_s=30))
    before = await account(database)
    await settle(store, late)
    assert (await account(database))["paused_until"] == before["paused_until"]
    assert clock.now() >= late.attempts[0].started_at


async def test_a_probe_needs_a_due_appointment(database: Database) -> None:
    """Without anything to send the pause is not pushed on, so that the first change finds its probe at once."""
    store = await registered(database)
    await due(database, store, 1)
    (held,) = await claim(store)
    await settle(store, replace(stopped(held, "refused", wait_s=0.05), due_in_s=600.0))
    paused = await account(database)
    assert await eventually(lambda: database.value("SELECT clock_timestamp() > $1", paused["paused_until"]))
    assert await claims_of_many(store) == []
    assert (await account(database))["paused_until"] == paused["paused_until"]
    await database.write("app_new", {"note": NOTE})
    await store.take_in(["default"])
    assert [one.probing for one in await claims_of_many(store)] == ["refused"]


async def test_a_lost_lease_pauses_nobody(database: Database) -> None:
    """What a claim heard that is no longer held may be long out of date: the account is not paused for it."""
    store = await registered(database)
    await due(database, store)
    (held,) = await claim(store, lease_s=0.1)
    await eventually(lambda: database.value("SELECT bool_or(leased_until < clock_timestamp()) FROM caspen_sync.queue"))
    late = replace(settlement(held, due_in_s=0.0), pause=stopped(held, "throttled", wait_s=600).pause)
    assert await settle(store, late) == [late]
    assert len(await claim(store)) == 1
