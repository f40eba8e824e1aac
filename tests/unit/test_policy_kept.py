"""What a settlement keeps besides the decision: the budget that was told, who set what, and the texts."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

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
    synced,
)
from worker.claims import BudgetTold, Settlement
from worker.merge import Change
from worker.outcome import Outcome
from worker.policy import Sent, settle

CHANCE = random.Random(3)
ANSWERED: list[Outcome] = [synced(), RETRY, UNKNOWN, THROTTLED, REFUSED, REJECTED, NO_SUCH]


def settled(requests: list[Sent], changes: tuple[Change, ...] | None = None) -> Settlement:
    """What follows when the requests of a claim of another account than the default came to this."""
    held = notes(1, 2) if changes is None else changes
    claimed = replace(claim(held), account="north")
    settlement = settle(claimed, held, requests, LIMITS, CHANCE)
    assert settlement.claim is claimed
    return settlement


def telling(one: Sent, *, limit: int | None = None, remaining: int | None = None) -> Sent:
    """The same request; its answer told this of the budget."""
    return replace(one, exchange=replace(one.exchange, limit=limit, remaining=remaining))


@pytest.mark.parametrize(("limit", "remaining"), [(60, 7), (60, None), (None, 0)])
@pytest.mark.parametrize("outcome", ANSWERED)
def test_what_an_answer_told_of_the_budget(outcome: Outcome, limit: int | None, remaining: int | None) -> None:
    """Whatever the request came to: of which account, and as of when its request began. What was said first is old."""
    first, last = sent(RETRY, outcome)
    requests = [telling(first, limit=1, remaining=1), telling(last, limit=limit, remaining=remaining)]
    assert settled(requests).told == BudgetTold(account="north", limit=limit, remaining=remaining, started_at=102.0)


@pytest.mark.parametrize("last", [NOT_SENT, UNKNOWN, synced()])
def test_an_answer_that_told_nothing_takes_nothing_back(last: Outcome) -> None:
    """The newest that did speak of the budget counts; where none did, nothing was told."""
    first, silent = sent(RETRY, last)
    told = settled([telling(first, limit=60, remaining=9), silent]).told
    assert told == BudgetTold(account="north", limit=60, remaining=9, started_at=101.0)
    assert settled([first, silent]).told is None


def test_who_set_what() -> None:
    """Of each field the newest change that was sent, for what may come after it."""
    changes = (Change(id=1, changes={"note": "a", "room_id": 1}), Change(id=2, changes={"note": "b"}))
    answer = settled(sent(synced(note="b", room_id=1)), changes).answer
    assert answer is not None
    assert answer.set_by == {"note": 2, "room_id": 1}


def test_an_attempt_says_in_what_the_answer_differs() -> None:
    """In every field; and it has no error where it does not."""
    changes = (Change(id=1, changes={"note": "a", "confirmed": True}),)
    (attempt,) = settled(sent(synced(note="b", confirmed=False)), changes).attempts
    assert attempt.error in (
        "answer differs from what was sent: note, confirmed",
        "answer differs from what was sent: confirmed, note",
    )
    assert [one.error for one in settled(sent(RETRY, synced(note="note 2"))).attempts] == [RETRY.reason, None]


def test_what_the_api_said_is_kept_with_each_change_that_it_parks() -> None:
    """For a person to read; the reason alone stands with those that are sent again in parts."""
    said = replace(REJECTED, messages='{"message": "no"}')
    (alone,) = settled(sent(said), notes(1)).verdicts
    assert (alone.error, alone.messages) == (REJECTED.reason, said.messages)
    for verdict in settled(sent(said)).verdicts:
        assert (verdict.state, verdict.error, verdict.messages) == (None, REJECTED.reason, None)
    for verdict in settled(sent(replace(said, whole=True))).verdicts:
        assert (verdict.state, verdict.messages) == ("parked", said.messages)


def test_a_pause_that_goes_on_keeps_its_reason() -> None:
    """As what it began with: the next probe is held against it."""
    held = claim(notes(1), probing="rejected", pause_reason=REJECTED.reason)
    pause = settle(held, held.changes, sent(REJECTED), LIMITS, CHANCE).pause
    assert pause is not None
    assert (pause.kind, pause.reason) == ("rejected", REJECTED.reason)


def test_what_newer_changes_have_made_pointless_is_settled_by_itself_too() -> None:
    """Without a breach beside it."""
    gone = Change(id=1, changes={"note": "old"}, superseded=frozenset({"note"}))
    settlement = settle(claim((gone, *notes(2))), notes(2), sent(RETRY), LIMITS, CHANCE, outdated=[gone])
    assert [(verdict.change_id, verdict.state) for verdict in settlement.verdicts] == [(1, "discarded"), (2, None)]


@pytest.mark.parametrize("outcome", ANSWERED)
def test_a_slot_that_was_throttled_stands_for_somebody_elses_request(outcome: Outcome) -> None:
    """It rests for longer than one of our own."""
    first, *rest = settled(sent(RETRY, outcome)).slots
    assert not first.throttled
    assert [used.throttled is True for used in rest if used.slot.number == 2] == (
        [] if outcome is UNKNOWN else [outcome is THROTTLED]
    )
