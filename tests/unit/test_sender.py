"""Sending, without an API and without a database: which requests go out, by which slot, token and deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.sending import BEGAN, TIMEOUT_S, World, a_sender, sent, slots_of
from tests.support.settlements import (
    LIMITS,
    NOT_SENT,
    REFUSED,
    REJECTED,
    RETRY,
    THROTTLED,
    UNKNOWN,
    claim,
    notes,
    synced,
)
from worker import sender as module
from worker.claims import Claim, Settlement
from worker.errors import DatabaseUnreachable
from worker.merge import Change
from worker.outcome import Exchange, Outcome
from worker.runtime import Runtime
from worker.sender import QUICK_BASE_S, QUICK_MAX_S, Sender
from worker.times import lease_s

# -- what is to be sent ----------------------------------------------------------------------------------------------


def test_what_is_sent_is_the_fold_of_what_is_sound_and_not_outdated() -> None:
    """What breaks the contract and what newer changes have made pointless is left out, and settled beside it."""
    world = World()
    held = claim(
        (
            Change(id=1, changes={"bogus": 1}),
            Change(id=2, changes={"note": "old"}, superseded=frozenset({"note"})),
            Change(id=3, changes={"note": "old", "room_id": 1}, superseded=frozenset({"note"})),
            Change(id=4, changes={"room_id": 2}),
        )
    )
    sender = a_sender(world)
    delivery = sender.prepare(held)
    assert world.bodies == [("app_1", {"room_id": 2})]
    assert [change.id for change in delivery.sound] == [3, 4]
    released = sender.settlement(delivery)
    assert [(verdict.change_id, verdict.state) for verdict in released.verdicts] == [(1, "parked"), (2, "discarded")]
    assert released.due_in_s == 0.0


async def test_what_was_not_sent_is_settled_beside_what_was() -> None:
    """Each of the claim's changes ends somewhere."""
    outdated = Change(id=2, changes={"note": "old"}, superseded=frozenset({"note"}))
    _, _, settlement = await sent(World([synced()]), claim((Change(id=1, changes={"bogus": 1}), outdated, *notes(3))))
    assert [(verdict.change_id, verdict.state) for verdict in settlement.verdicts] == [
        (1, "parked"),
        (2, "discarded"),
        (3, "synced"),
    ]


def test_ids_are_what_the_settings_say() -> None:
    """Numbers, unless they may be words."""
    world = World()
    held = claim([Change(id=1, changes={"room_id": "blue"})])
    assert not a_sender(world).prepare(held).sound
    assert a_sender(world, ids="any").prepare(held).sound == held.changes


async def test_an_id_that_would_change_the_path_parks_all() -> None:
    """None of its changes is sent, however sound it is."""
    world = World()
    delivery, accepted, settlement = await sent(world, replace(claim(notes(1, 2)), appointment_id=".."))
    assert (world.bodies, delivery.sound, accepted) == ([], (), False)
    assert [(verdict.change_id, verdict.state) for verdict in settlement.verdicts] == [(1, "parked"), (2, "parked")]
    assert "appointment_id: would change the path" in (settlement.verdicts[0].error or "")


# -- one request -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [synced(), UNKNOWN, THROTTLED, REFUSED, REJECTED])
async def test_one_request(outcome: Outcome) -> None:
    """By the claim's own slot, with the token, to be over within a timeout of its slot; only an accepted one is."""
    world = World([outcome])
    delivery, accepted, settlement = await sent(world)
    assert world.requests == [("request 1", "first", BEGAN + TIMEOUT_S)]
    assert (slots_of(delivery), world.asked, world.said) == ([1], [], [])
    assert accepted is (outcome.name == "synced")
    assert [attempt.outcome for attempt in settlement.attempts] == [outcome.name]
    assert delivery.slowest_s == world.takes_s


async def test_a_request_is_told_to_whoever_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which claim and changes it is, and how many went before it."""
    told: list[tuple[Claim, Sequence[Change], int]] = []

    async def followed(
        sending: Awaitable[Exchange], held: Claim, changes: Sequence[Change], *, resends: int
    ) -> Exchange:
        told.append((held, changes, resends))
        return await sending

    monkeypatch.setattr(module.tracing, "followed", followed)
    held = claim((*notes(1), Change(id=2, changes={"bogus": 1})))
    await sent(World([RETRY, synced()]), held)
    assert told == [(held, notes(1), 0), (held, notes(1), 1)]


async def test_a_run_that_has_an_end_cuts_its_requests_off() -> None:
    """At its end, where that is before the claim's, and no earlier otherwise."""
    for ends_at, deadline in ((BEGAN + 20, BEGAN + 19.5), (BEGAN + 1000, BEGAN + TIMEOUT_S)):
        world = World([synced()])
        await sent(world, runtime=Runtime(ends_at, timeout_s=TIMEOUT_S, now=world.now))
        assert [end for _, _, end in world.requests] == [deadline]


@pytest.mark.parametrize(("later_s", "requests"), [(TIMEOUT_S / 2, 1), (TIMEOUT_S / 2 + 0.1, 0), (1e6, 0)])
async def test_a_process_that_was_frozen_sends_nothing(later_s: float, requests: int) -> None:
    """With less than half of its time left the claim is given back, and nobody is charged."""
    world = World([synced()], now_s=BEGAN + later_s)
    delivery, accepted, settlement = await sent(world)
    assert (len(world.requests), accepted) == (requests, bool(requests))
    assert (delivery.fault, len(settlement.attempts), world.waits) == (None, requests, [])


# -- quick retries ---------------------------------------------------------------------------------------------------


async def test_each_retry_has_a_slot_of_its_own() -> None:
    """Up to retry.quick_attempts requests in all; each is over within a timeout of its slot, and of the lease."""
    world = World([RETRY] * 9, takes_s=6.0)
    held = claim(notes(1, 2))
    delivery, accepted, settlement = await sent(world, held)
    assert (slots_of(delivery), accepted) == ([1, 2, 3, 4], False)
    assert world.asked == [(held, TIMEOUT_S)] * 3
    assert {request for request, _, _ in world.requests} == {"request 1"}
    latest = BEGAN + lease_s(TIMEOUT_S) - TIMEOUT_S
    assert [end for _, _, end in world.requests] == [min(BEGAN + n * 6 + TIMEOUT_S, latest) for n in range(4)]
    assert {verdict.charged for verdict in settlement.verdicts} == {4}
    assert len(world.waits) == 3


async def test_what_comes_of_a_retry_counts() -> None:
    """It was accepted, if late."""
    delivery, accepted, settlement = await sent(World([RETRY, NOT_SENT, synced()]))
    assert (slots_of(delivery), accepted) == ([1, 2, 2], True)
    assert {verdict.state for verdict in settlement.verdicts} == {"synced"}


async def test_what_was_not_sent_has_its_slot_still() -> None:
    """The database is not asked for another."""
    world = World([NOT_SENT] * 9)
    delivery, accepted, _ = await sent(world)
    assert (slots_of(delivery), world.asked, accepted) == ([1, 1, 1, 1], [], False)


async def test_what_failed_a_whole_claim_long_is_tried_once() -> None:
    """It is not mended in a second."""
    world = World([RETRY] * 9)
    await sent(world, claim(notes(1), failures=1))
    assert (len(world.requests), world.waits) == (1, [])


@pytest.mark.parametrize("taken", [None, DatabaseUnreachable("database: gone")])
async def test_without_another_slot_there_is_no_retry(taken: Exception | None) -> None:
    """No budget, or a database that is away: that the request failed is written back as ever."""
    world = World([RETRY] * 9, slots=[taken])
    delivery, accepted, settlement = await sent(world)
    assert (slots_of(delivery), delivery.fault, accepted) == ([1], None, False)
    assert [attempt.outcome for attempt in settlement.attempts] == ["retry"]


@pytest.mark.parametrize(("takes_s", "asked"), [(TIMEOUT_S, 1), (TIMEOUT_S + 0.1, 0)])
async def test_no_slot_is_taken_for_what_could_not_start(takes_s: float, asked: int) -> None:
    """Half a timeout has to be left of the claim, besides the one that its lease keeps for what is on the wire."""
    world = World([RETRY] * 9, takes_s=takes_s)
    await sent(world)
    assert len(world.asked) == asked
    assert len(world.requests) == 1 + asked


async def test_the_waits_grow_and_are_spread() -> None:
    """Between 0 and a limit that doubles, up to the longest."""
    waits: list[list[float]] = []
    for _ in range(200):
        world = World([NOT_SENT] * 9, takes_s=0.0)
        sender = a_sender(world, quick_attempts=7)
        await sender.send(sender.prepare(claim(notes(1))))
        waits.append(world.waits)
    for number, drawn in enumerate(zip(*waits, strict=True)):
        longest = min(QUICK_MAX_S, QUICK_BASE_S * 2**number)
        assert 0 <= min(drawn) < longest / 4
        assert longest * 3 / 4 < max(drawn) <= longest


async def test_a_stop_ends_the_retries() -> None:
    """The request that is out is answered; no other follows, nor is any slot taken or waited for."""
    world, stopping = World([RETRY] * 9), asyncio.Event()
    world.while_sending = stopping.set
    delivery, _, _ = await sent(world, stopping=stopping)
    assert (slots_of(delivery), world.asked, world.waits) == ([1], [], [])


async def test_after_a_stop_nothing_goes_out() -> None:
    """The claim is given back, due at once."""
    world, stopping = World([synced()]), asyncio.Event()
    stopping.set()
    _, accepted, settlement = await sent(world, stopping=stopping)
    assert (world.requests, accepted, settlement.due_in_s) == ([], False, 0.0)


async def test_a_wait_ends_with_its_time_or_with_a_stop() -> None:
    """Neither raises."""
    stopping = asyncio.Event()
    sender = a_sender(World(), stopping=stopping)
    async with asyncio.timeout(10):
        await Sender._sleep(sender, 0.001)
        stopping.set()
        await Sender._sleep(sender, 1000.0)


# -- tokens ----------------------------------------------------------------------------------------------------------


async def test_a_token_that_was_replaced_is_tried_at_once(tmp_path: Path) -> None:
    """With another slot; what the claim says of the account is said of the token that was refused last."""
    file = tmp_path / "token"
    file.write_text("first")
    world = World([REFUSED] * 9)
    world.while_sending = lambda: file.write_text("other")
    delivery, _, settlement = await sent(world, token=None, token_file=file)
    assert [token for _, token, _ in world.requests] == ["first", "other"]
    assert slots_of(delivery) == [1, 2]
    assert settlement.pause is not None
    assert settlement.pause.token == delivery.sent[-1].token != delivery.sent[0].token


async def test_a_token_of_the_same_look_is_read_again(tmp_path: Path) -> None:
    """Whatever the file's times say: a clock that stands still hides a rotation from them."""
    file = tmp_path / "token"
    file.write_text("first")
    world = World([REFUSED, synced()])
    sender = a_sender(world, token=None, token_file=file)
    sender._tokens["default"]._hold("stale")
    assert await sender.send(sender.prepare(claim(notes(1))))
    assert [token for _, token, _ in world.requests] == ["stale", "first"]


async def test_a_token_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """The one that is known is no good: nothing more goes out."""
    file = tmp_path / "token"
    file.write_text("first")
    world = World([REFUSED] * 9)
    world.while_sending = file.unlink
    await sent(world, token=None, token_file=file)
    assert len(world.requests) == 1
    ((event, fields),) = world.said
    assert (event, fields.keys()) == ("token_unreadable", {"error"})
    assert str(file) in fields["error"]


# -- faults of ours --------------------------------------------------------------------------------------------------


def said_of(world: World, error: str) -> None:
    """One line, that names the error and its place, and quotes nothing."""
    ((event, fields),) = world.said
    where = fields.pop("at")
    assert (event, fields) == ("claim_failed", {"account": "default", "appointment_id": "app_1", "error": error})
    assert where[0].startswith(error)


async def test_a_fault_in_preparing_ends_only_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes out, and the appointment rests."""
    world = World([synced()])
    monkeypatch.setattr(world, "request", lambda *_: {}["note"])
    _, accepted, settlement = await sent(world)
    assert (world.requests, accepted) == ([], False)
    assert settlement.due_in_s is not None
    assert settlement.due_in_s >= TIMEOUT_S
    assert settlement.verdicts[0].error == "internal error (KeyError); see the log"
    said_of(world, "KeyError")


async def test_a_fault_in_sending_keeps_what_was_answered_before() -> None:
    """It is on record, and its slot cools from its answer."""
    world = World([RETRY, ZeroDivisionError()])
    delivery, accepted, settlement = await sent(world)
    assert (slots_of(delivery), accepted) == ([1], False)
    assert [attempt.outcome for attempt in settlement.attempts] == ["retry"]
    assert [(used.slot.number, used.answered_at) for used in settlement.slots] == [(1, BEGAN + 1)]
    said_of(world, "ZeroDivisionError")


async def test_a_fault_in_deciding_ends_only_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered is on record all the same."""

    def fail(*_: object, **__: object) -> Settlement:
        raise OverflowError

    monkeypatch.setattr(module.policy, "settle", fail)
    world = World([synced()])
    _, accepted, settlement = await sent(world)
    assert accepted
    assert settlement.verdicts[0].error == "internal error (OverflowError); see the log"
    assert [attempt.outcome for attempt in settlement.attempts] == ["synced"]
    said_of(world, "OverflowError")


# -- the rest --------------------------------------------------------------------------------------------------------


def test_the_settings_that_decide() -> None:
    """Each stands where policy looks for it."""
    sender = a_sender(World(), rate_window_s=44)
    assert sender._limits["default"] == replace(
        LIMITS, window_s=44.0, probe_base_s=11.0, probe_max_s=22.0, max_attempts=33, timeout_s=TIMEOUT_S
    )


async def test_a_pause_holds_up_only_what_was_claimed_before_it() -> None:
    """At the same instant it is before; another account's pause is none."""
    for account, at, requests in (("default", BEGAN, 0), ("default", BEGAN - 0.1, 1), ("other", BEGAN + 1, 1)):
        world = World([synced()], now_s=at)
        sender = a_sender(world)
        sender.paused(account)
        world.now_s = BEGAN
        await sender.send(sender.prepare(claim(notes(1))))
        assert len(world.requests) == requests


async def test_a_pause_ends_the_retries() -> None:
    """Nor is it waited for another."""
    world = World([NOT_SENT] * 9)
    sender = a_sender(world)
    world.while_sending = lambda: sender.paused("default")
    await sender.send(sender.prepare(claim(notes(1))))
    assert (len(world.requests), len(world.waits)) == (1, 1)
