"""What follows from each outcome."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.settlements import (
    LIMITS,
    NO_SUCH,
    NOT_SENT,
    REFUSED,
    REJECTED,
    RETRY,
    THROTTLED,
    UNKNOWN,
    claim,
    notes,
    sent,
    slot,
    synced,
)
from worker.claims import PauseKind, Settlement, UsedSlot
from worker.contract import AppointmentResource
from worker.merge import Change, sift
from worker.outcome import Exchange, NotSent, Outcome, Rejected, Retry, Throttled
from worker.policy import SUPERSEDED, Sent, failed, release, settle
from worker.times import THROTTLE_MAX_S

ALL: list[Outcome] = [synced(note="note 2"), NOT_SENT, RETRY, UNKNOWN, THROTTLED, REFUSED, REJECTED, NO_SUCH]
CHANCE = random.Random(1)


def settled(*outcomes: Outcome, changes: tuple[Change, ...] | None = None, **of_claim: Any) -> Settlement:
    """What follows for two changes, or these, when the requests of their claim came to these outcomes."""
    held = notes(1, 2) if changes is None else changes
    sound, breaches = sift(held, ids="integer")
    return settle(claim(held, **of_claim), sound, sent(*outcomes), LIMITS, CHANCE, breaches=breaches)


def states(settlement: Settlement) -> list[tuple[int, str | None, int]]:
    return [(verdict.change_id, verdict.state, verdict.charged) for verdict in settlement.verdicts]


# -- each outcome ----------------------------------------------------------------------------------------------------


def test_synced() -> None:
    """Everything that was folded is synced, the answer is kept whole, and the appointment has a clean slate."""
    settlement = settled(synced(note="note 2", new_field=[1]), failures=5)
    assert states(settlement) == [(1, "synced", 1), (2, "synced", 1)]
    assert {verdict.error for verdict in settlement.verdicts} == {None}
    assert (settlement.due_in_s, settlement.failures, settlement.part_size) == (None, 0, None)
    assert settlement.mismatches == ()
    assert settlement.answer is not None
    assert settlement.answer.last_change_id == 2
    assert json.loads(settlement.answer.resource) == {"id": "app_1", "note": "note 2", "new_field": [1]}
    assert json.loads(settlement.answer.fields).keys() == AppointmentResource.model_fields.keys()


def test_synced_but_answered_otherwise() -> None:
    """An answer that differs from what was sent is synced all the same, and the difference is on record by name."""
    settlement = settled(synced(note="something else"))
    assert states(settlement) == [(1, "synced", 1), (2, "synced", 1)]
    assert settlement.mismatches == ("note",)
    assert [attempt.error for attempt in settlement.attempts] == ["answer differs from what was sent: note"]


@pytest.mark.parametrize(
    ("outcome", "charged", "rest_s"), [(NOT_SENT, 0, 0), (RETRY, 1, 0), (UNKNOWN, 1, LIMITS.timeout_s)]
)
def test_backing_off(outcome: Outcome, charged: int, rest_s: float) -> None:
    """Pending still, with the reason; one failure more in a row. After silence it rests a timeout longer."""
    for _ in range(200):
        settlement = settled(outcome, failures=3)
        assert states(settlement) == [(1, None, charged), (2, None, charged)]
        assert {verdict.error for verdict in settlement.verdicts} == {outcome.reason}  # type: ignore[union-attr]
        assert settlement.failures == 4
        assert settlement.due_in_s is not None
        assert rest_s <= settlement.due_in_s <= rest_s + 16
        assert (settlement.pause, settlement.answer) == (None, None)


@pytest.mark.parametrize(
    ("wait_s", "waits"), [(7.0, 7.0), (None, LIMITS.window_s), (THROTTLE_MAX_S, THROTTLE_MAX_S), (1e9, THROTTLE_MAX_S)]
)
def test_throttled(wait_s: float | None, waits: float) -> None:
    """The account waits as told, or a window, but not for ever; no change is charged; it is due with the account."""
    settlement = settled(Throttled(status=429, hints_s=() if wait_s is None else (wait_s,)), failures=3)
    assert states(settlement) == []
    assert (settlement.due_in_s, settlement.failures) == (0, 3)
    assert settlement.pause is not None
    assert (settlement.pause.account, settlement.pause.kind, settlement.pause.wait_s) == ("default", "throttled", waits)
    assert settlement.pause.longest_s >= settlement.pause.wait_s
    assert settlement.pause.absurd_s == (wait_s if wait_s == 1e9 else None)
    assert (settlement.pause.started_at, settlement.pause.told_at) == (101.0, 101.5)


def test_refused() -> None:
    """The account pauses until a probe gets through; the change is not charged."""
    settlement = settled(REFUSED, failures=3)
    assert states(settlement) == []
    assert (settlement.due_in_s, settlement.failures) == (0, 3)
    assert settlement.pause is not None
    assert (settlement.pause.kind, settlement.pause.wait_s) == ("refused", LIMITS.probe_base_s)
    assert (settlement.pause.longest_s, settlement.pause.reason) == (LIMITS.probe_max_s, REFUSED.reason)


def test_a_rejected_change_is_parked_with_what_the_api_said() -> None:
    """A change that was sent by itself: nobody else can be guilty."""
    settlement = settled(REJECTED, changes=notes(1), failures=3)
    assert states(settlement) == [(1, "parked", 1)]
    assert settlement.verdicts[0].error == "422 validation failed: room_id"
    assert (settlement.due_in_s, settlement.failures, settlement.answer) == (None, 0, None)


def test_a_rejected_fold_is_sent_again_in_parts() -> None:
    """Nothing parks yet: half of the changes are due at once, as a request of their own."""
    settlement = settled(REJECTED, changes=notes(1, 2, 3, 4, 5), failures=3)
    assert states(settlement) == [(number, None, 1) for number in range(1, 6)]
    assert (settlement.due_in_s, settlement.failures, settlement.part_size) == (0, 0, 2)


def test_a_wrong_address_parks_the_whole_fold() -> None:
    """No part of it would fare better."""
    settlement = settled(NO_SUCH, changes=notes(1, 2, 3))
    assert states(settlement) == [(1, "parked", 1), (2, "parked", 1), (3, "parked", 1)]
    assert settlement.due_in_s is None


# -- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "before", "after"), [(2, None, None), (2, 2, 4), (1, 1, 2), (1, 2, None), (3, 4, None)]
)
@pytest.mark.parametrize("outcome", [synced(), NO_SUCH])
def test_after_a_part_comes_one_of_twice_the_size(
    outcome: Outcome, held: int, before: int | None, after: int | None
) -> None:
    """... and once a part took in all there was, whatever comes next goes out whole again."""
    assert settled(outcome, changes=notes(*range(1, held + 1)), part_size=before).part_size == after


@pytest.mark.parametrize("outcome", [NOT_SENT, RETRY, UNKNOWN, THROTTLED, REFUSED])
def test_the_size_of_parts_outlasts_what_says_nothing_of_the_body(outcome: Outcome) -> None:
    """A fault in the middle of the search does not start it anew."""
    assert settled(outcome, part_size=2).part_size == 2


# -- what was sent before --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [THROTTLED, REFUSED])
def test_requests_before_a_fault_of_the_account_still_count(last: Outcome) -> None:
    """Two quick tries were answered 503, then the account was stopped: the two are charged, the third is not."""
    settlement = settled(RETRY, RETRY, last)
    assert states(settlement) == [(1, None, 2), (2, None, 2)]
    assert {verdict.error for verdict in settlement.verdicts} == {last.reason}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("last", "charged"), [(synced(note="note 2"), 3), (NOT_SENT, 2), (RETRY, 3), (UNKNOWN, 3), (REJECTED, 3)]
)
def test_every_request_that_was_answered_or_lost_is_charged(last: Outcome, charged: int) -> None:
    """`attempts` counts requests, quick ones included."""
    assert {verdict.charged for verdict in settled(RETRY, RETRY, last).verdicts} == {charged}


@pytest.mark.parametrize("first", [RETRY, NOT_SENT])
@pytest.mark.parametrize("last", ALL)
def test_each_request_is_on_record_and_what_was_not_sent_is_none(first: Outcome, last: Outcome) -> None:
    """One attempt for each request, with its times, its status and the changes that were in it."""
    settlement = settled(first, last)
    went_out = [
        (one.exchange.started_at, one.exchange.outcome)
        for one in sent(first, last)
        if not isinstance(one.exchange.outcome, NotSent)
    ]
    assert [(attempt.started_at, attempt.outcome) for attempt in settlement.attempts] == [
        (started_at, outcome.name) for started_at, outcome in went_out
    ]
    for attempt, (_, outcome) in zip(settlement.attempts, went_out, strict=True):
        assert (attempt.http_status, attempt.duration_s, attempt.change_ids) == (outcome.status, 0.5, (1, 2))


@pytest.mark.parametrize("outcome", ALL)
@pytest.mark.parametrize("probing", ["refused", "down", None])
def test_only_a_probe_that_the_api_heard_ends_a_pause(outcome: Outcome, probing: PauseKind | None) -> None:
    """Accepted or rejected, the token was good; anything else does not tell."""
    heard = outcome.name in ("synced", "rejected")
    assert settled(outcome, probing=probing).welcome == (probing is not None and heard)


# -- slots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ALL)
def test_which_slots_cool_from_when(outcome: Outcome) -> None:
    """After an answer: from the answer on. Not sent: free at once. Lost: the worst case stands, so it is left alone."""
    settlement = settled(outcome)
    if outcome == UNKNOWN:
        assert settlement.slots == ()
    else:
        assert [(used.slot.number, used.answered_at) for used in settlement.slots] == [
            (1, None if outcome == NOT_SENT else 101.5)
        ]


def test_a_slot_that_was_used_twice_cools_from_its_last_use() -> None:
    """What was not sent left its slot to the next try."""
    one = slot()
    times: list[tuple[Outcome, float]] = [(NOT_SENT, 101.0), (RETRY, 102.0)]
    requests = [Sent(slot=one, exchange=Exchange(outcome=o, started_at=at, ended_at=at + 1)) for o, at in times]
    held = notes(1)
    settlement = settle(claim(held), held, requests, LIMITS, CHANCE)
    assert settlement.slots == (UsedSlot(slot=one, answered_at=103.0),)
    requests = [*requests, Sent(slot=slot(2), exchange=Exchange(outcome=UNKNOWN, started_at=104.0, ended_at=134.0))]
    assert settle(claim(held), held, requests, LIMITS, CHANCE).slots == (UsedSlot(slot=one, answered_at=103.0),)


# -- giving up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [RETRY, UNKNOWN])
def test_a_change_that_had_all_its_requests_is_parked(outcome: Outcome) -> None:
    """Only one that failed by itself: of several that were folded, any may be what the API stumbles over, and so they
    are sent in parts first. Where the API may be at it still, whatever comes next for the appointment waits."""
    changes = (*notes(1, attempts=19), *notes(2, attempts=18))
    settlement = settled(outcome, changes=changes)
    assert states(settlement) == [(1, None, 1), (2, None, 1)]
    assert {verdict.error for verdict in settlement.verdicts} == {outcome.reason}  # type: ignore[union-attr]
    assert settlement.part_size == 1
    assert settlement.due_in_s is not None
    alone = settled(outcome, changes=changes[:1], failures=19)
    assert states(alone) == [(1, "parked", 1)]
    assert alone.verdicts[0].error == f"gave up after 20 attempts: {outcome.reason}"  # type: ignore[union-attr]
    assert (alone.due_in_s, alone.failures) == (LIMITS.timeout_s if outcome is UNKNOWN else None, 0)
    assert settled(outcome, changes=changes[:1], part_size=1).part_size == 2


@pytest.mark.parametrize("outcome", [NOT_SENT, THROTTLED, REFUSED, REJECTED])
def test_nothing_else_gives_a_change_up(outcome: Outcome) -> None:
    """Nothing was sent, the account is at fault, or the fold was refused: patience has no end for these."""
    settlement = settled(outcome, changes=notes(1, 2, attempts=1000))
    assert "parked" not in {verdict.state for verdict in settlement.verdicts}
    assert settlement.due_in_s is not None


def test_quick_tries_count_towards_giving_up_whatever_comes_last() -> None:
    """Two answered tries take the last two requests that a change may have, even if the third was not sent."""
    assert states(settled(RETRY, RETRY, NOT_SENT, changes=notes(1, attempts=18))) == [(1, "parked", 2)]
    assert states(settled(RETRY, THROTTLED, changes=notes(1, attempts=19))) == [(1, None, 1)]
    assert states(settled(RETRY, synced(), changes=notes(1, attempts=19))) == [(1, "synced", 2)]


# -- breaches, release, texts ----------------------------------------------------------------------------------------

MIXED = (Change(id=1, changes={"bogus": 1}), *notes(2), Change(id=3, changes={"room_id": "x"}))


@pytest.mark.parametrize("outcome", ALL)
def test_a_breach_parks_whatever_came_of_the_others(outcome: Outcome) -> None:
    """It was never sent, costs no attempt, is in no attempt's row, and what is settled reaches beyond it."""
    settlement = settled(outcome, changes=MIXED)
    breaches = [verdict for verdict in settlement.verdicts if verdict.change_id != 2]
    assert [(verdict.change_id, verdict.state, verdict.charged) for verdict in breaches] == [
        (1, "parked", 0),
        (3, "parked", 0),
    ]
    assert breaches[0].error == "breaks the API's contract: bogus: is not a field of the API"
    assert settlement.upto_id == 3
    assert all(attempt.change_ids == (2,) for attempt in settlement.attempts)
    assert settlement.answer is None or settlement.answer.last_change_id == 2


@pytest.mark.parametrize("outcome", [RETRY, NOT_SENT, UNKNOWN])
def test_a_breach_does_not_count_as_all_parked(outcome: Outcome) -> None:
    """With a change left to send the appointment is due again."""
    settlement = settled(outcome, changes=MIXED)
    assert settlement.due_in_s is not None
    assert settlement.failures == 1


@pytest.mark.parametrize(
    ("changes", "due_in_s", "parked"),
    [(notes(1, 2), 0.0, []), (MIXED, 0.0, [1, 3]), (MIXED[:1], None, [1]), ((), None, [])],
)
def test_release(changes: tuple[Change, ...], due_in_s: float | None, parked: list[int]) -> None:
    """Nothing was sent: nothing is charged, the slot is free at once, what is left is due at once, breaches park."""
    held = claim(changes, failures=3, part_size=2)
    settlement = release(held, sift(changes, ids="integer")[1])
    assert [(v.change_id, v.state, v.charged) for v in settlement.verdicts] == [
        (number, "parked", 0) for number in parked
    ]
    assert (settlement.due_in_s, settlement.failures, settlement.part_size) == (due_in_s, 3, 2)
    assert settlement.upto_id == (changes[-1].id if changes else held.newest_id)
    assert settlement.slots == (UsedSlot(slot=held.slot, answered_at=None),)
    assert (settlement.attempts, settlement.answer, settlement.pause, settlement.welcome) == ((), None, None, False)
    assert settlement.claim is held


@pytest.mark.parametrize(("sent_of_it", "due_in_s"), [(True, 0.0), (False, None)])
def test_what_newer_changes_have_made_pointless_is_discarded(sent_of_it: bool, due_in_s: float | None) -> None:
    """It costs nothing and says why, whether or not anything else of its claim is sent; alone, or beside what breaks
    the contract, it leaves nothing to be due for."""
    gone = tuple(Change(id=n, changes={"note": "old"}, superseded=frozenset({"note"})) for n in (2, 3))
    left = notes(4) if sent_of_it else ()
    held = claim((MIXED[0], *gone, *left))
    _, breaches = sift(held.changes, ids="integer")
    released = release(held, breaches, gone)
    assert (released.due_in_s, released.upto_id) == (due_in_s, held.changes[-1].id)
    both = [released]
    if left:
        both.append(settle(held, left, sent(RETRY), LIMITS, CHANCE, breaches=breaches, outdated=gone))
    for settlement in both:
        assert states(settlement)[:3] == [(1, "parked", 0), (2, "discarded", 0), (3, "discarded", 0)]
        assert {verdict.error for verdict in settlement.verdicts[1:3]} == {SUPERSEDED}


def test_what_a_claim_left_out_is_not_settled() -> None:
    """The queue knows of newer changes than a part holds: they are due again, also when nothing was sent."""
    part = replace(claim(notes(1, 2), part_size=2), newest_id=9)
    assert release(part).upto_id == failed(part, "KeyError", LIMITS, CHANCE).upto_id == 2
    assert settle(part, notes(1, 2), sent(RETRY), LIMITS, CHANCE).upto_id == 2


def test_a_fault_of_our_own_is_treated_as_an_unknown_outcome() -> None:
    """Nobody knows what went out: it rests, is charged, and parks in the end; the slot's worst case stands."""
    settlement = failed(claim(notes(1, 2), failures=3, part_size=2), "KeyError", LIMITS, CHANCE)
    assert states(settlement) == [(1, None, 1), (2, None, 1)]
    assert settlement.due_in_s is not None
    assert LIMITS.timeout_s <= settlement.due_in_s <= LIMITS.timeout_s + 16
    assert (settlement.failures, settlement.part_size, settlement.slots) == (4, 2, ())
    assert (settlement.attempts, settlement.pause, settlement.welcome) == ((), None, False)
    assert {verdict.error for verdict in settlement.verdicts} == {"internal error (KeyError); see the log"}
    worn_out = failed(claim(notes(1, attempts=19), failures=3), "KeyError", LIMITS, CHANCE)
    assert states(worn_out) == [(1, "parked", 1)]
    assert (worn_out.due_in_s, worn_out.failures, worn_out.upto_id) == (LIMITS.timeout_s, 0, 1)
    assert failed(claim(()), "KeyError", LIMITS, CHANCE).upto_id == 77


def test_what_was_answered_before_a_fault_of_our_own_counts() -> None:
    """It is on record and charged, and its slot cools from its answer; what was not sent was no request."""
    held = claim(notes(1, 2))
    settlement = failed(held, "KeyError", LIMITS, CHANCE, sent(RETRY, NOT_SENT, UNKNOWN, REJECTED))
    assert states(settlement) == [(1, None, 3), (2, None, 3)]
    assert [attempt.outcome for attempt in settlement.attempts] == ["retry", "unknown", "rejected"]
    assert {attempt.change_ids for attempt in settlement.attempts} == {(1, 2)}
    assert [(used.slot.number, used.answered_at) for used in settlement.slots] == [(1, 101.5), (4, 104.5)]
    assert (settlement.claim, settlement.upto_id) == (held, 2)


secrets = st.text("ΩЖ", min_size=4, max_size=300).map(lambda text: f"Ψ{text}")
secret_bodies = st.dictionaries(
    st.sampled_from(["note", "room_id", "confirmed", "starts_at", "resource_ids", "bogus"]),
    secrets | st.lists(secrets, min_size=1, max_size=3) | st.dictionaries(secrets, secrets, min_size=1, max_size=2),
    min_size=1,
)


@given(body=secret_bodies, note=secrets.map(lambda text: text[:255]), outcome=st.sampled_from(ALL))
def test_no_text_holds_a_value_of_a_body(body: dict[str, Any], note: str, outcome: Outcome) -> None:
    """What goes into last_error, attempt.error, a pause's reason or a log line names fields, and quotes nothing."""
    changes = (Change(id=1, changes=body), Change(id=2, changes={"note": note}))
    settlement = settled(outcome, changes=changes)
    texts = [verdict.error or "" for verdict in settlement.verdicts] + [
        attempt.error or "" for attempt in settlement.attempts
    ]
    texts += [settlement.pause.reason if settlement.pause else "", *settlement.mismatches]
    assert "Ψ" not in "".join(texts)


def test_a_text_is_short() -> None:
    """However much there is to say, it goes into a table that people read."""
    settlement = settled(Retry(status=503, reason="x" * 10_000), changes=notes(1, attempts=30))
    assert len(settlement.verdicts[0].error or "") <= 500
    rejected = settled(Rejected(status=422, reason="x" * 10_000, whole=True), changes=notes(1))
    assert len(rejected.verdicts[0].error or "") <= 500
    two = release(claim(MIXED), sift([Change(id=1, changes={"bogus": 1, "room_id": "x"})], ids="integer")[1])
    assert (two.verdicts[0].error or "").endswith("room_id: must be an integer; bogus: is not a field of the API")
    breach = Change(id=1, changes={"x" * 50 + str(number): 1 for number in range(100)})
    assert len(settled(RETRY, changes=(breach, *notes(2))).verdicts[0].error or "") <= 500
