"""Who is charged and what pauses, when the request was a probe, or the appointment is suspect of being the fault."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

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
from worker.claims import PauseKind, Settlement
from worker.outcome import NotSent, Outcome, Refused
from worker.policy import release, settle

FORBIDDEN = Refused(status=403, reason="403 token not allowed to do this")
CHANCE = random.Random(5)
PROBES: list[PauseKind] = ["down", "rejected", "refused"]
FAILED: list[Outcome] = [NOT_SENT, RETRY, UNKNOWN]


def settled(*outcomes: Outcome, count: int = 1, **of_claim: Any) -> Settlement:
    """What follows for a claim of `count` changes."""
    held = notes(*range(1, count + 1))
    return settle(claim(held, **of_claim), held, sent(*outcomes), LIMITS, CHANCE)


def charged(settlement: Settlement) -> int:
    return sum(verdict.charged for verdict in settlement.verdicts)


def paused(settlement: Settlement) -> str | None:
    return settlement.pause.kind if settlement.pause else None


def said(settlement: Settlement) -> str | None:
    return settlement.sign.kind if settlement.sign else None


# -- neither probe nor suspect ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "pause", "sign"),
    [
        (synced(), None, "accepted"),
        (NOT_SENT, None, "down"),
        (RETRY, None, "down"),
        (UNKNOWN, None, "down"),
        (THROTTLED, "throttled", None),
        (REFUSED, "refused", None),
        (REJECTED, None, "rejected"),
        (NO_SUCH, None, "rejected"),
    ],
)
def test_what_each_outcome_says_of_the_account(outcome: Outcome, pause: str | None, sign: str | None) -> None:
    """Only a 429 and a refusal pause by themselves; failures and rejections are counted, and a sign says of what."""
    settlement = settled(outcome)
    assert (paused(settlement), said(settlement), settlement.own_fault, settlement.welcome) == (
        pause,
        sign,
        None,
        False,
    )
    assert settlement.turned_away == (outcome == REFUSED)
    if settlement.sign and sign != "accepted":
        assert settlement.sign.change_ids == (1,)
        assert settlement.sign.charged == charged(settlement) == (outcome != NOT_SENT)
        assert settlement.sign.reason == outcome.reason  # type: ignore[union-attr]
        assert (settlement.sign.started_at, settlement.sign.told_at) == (101.0, 101.5)


def test_a_refusal_names_its_token() -> None:
    """Of several, the one that was refused last: a worker with another one may try at once."""
    held, (first, last) = notes(1), sent(REFUSED, REFUSED)
    requests = [replace(first, token="old"), replace(last, token="new")]
    pause = settle(claim(held), held, requests, LIMITS, CHANCE).pause
    assert pause is not None
    assert pause.token == "new"


def test_a_sign_spans_the_quick_retries() -> None:
    """It began with the first request and was told by the last; all that were answered are charged."""
    sign = settled(RETRY, RETRY, UNKNOWN).sign
    assert sign is not None
    assert (sign.started_at, sign.told_at, sign.charged) == (101.0, 103.5, 3)


# -- probes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probing", PROBES)
@pytest.mark.parametrize("outcome", FAILED)
def test_a_probe_that_fails_is_the_fault_of_the_api(outcome: Outcome, probing: PauseKind) -> None:
    """It charges nobody, quick tries included, never parks, prolongs the pause, and backs its appointment off."""
    held = notes(1, attempts=19)
    settlement = settle(claim(held, probing=probing), held, sent(RETRY, outcome), LIMITS, CHANCE)
    assert (charged(settlement), paused(settlement), settlement.welcome) == (0, "down", False)
    assert [verdict.state for verdict in settlement.verdicts] == [None]
    assert (settlement.failures, settlement.turned_away) == (1, False)
    assert settlement.pause is not None
    assert settlement.pause.reason == outcome.reason  # type: ignore[union-attr]
    assert (settlement.pause.wait_s, settlement.pause.longest_s) == (LIMITS.probe_base_s, LIMITS.probe_max_s)


@pytest.mark.parametrize("probing", [*PROBES, None])
def test_what_came_too_late_to_be_sent_says_nothing(probing: PauseKind | None) -> None:
    """Nothing was in the way but the claim's end, on a slow machine say: no sign of an outage, and no pause for it. The
    appointment backs off."""
    settlement = settled(NotSent(reason="no time left in the claim", late=True), probing=probing)
    assert (charged(settlement), settlement.pause, settlement.sign, settlement.welcome) == (0, None, None, False)
    assert (settlement.failures, len(settlement.verdicts)) == (1, 1)


@pytest.mark.parametrize("probing", PROBES)
def test_a_probe_that_is_accepted_ends_the_pause(probing: PauseKind) -> None:
    """Whatever the account is paused for; the change is charged for its request and synced."""
    settlement = settled(synced(), probing=probing, suspect=True)
    assert (charged(settlement), paused(settlement), settlement.welcome) == (1, None, True)


@pytest.mark.parametrize("probing", PROBES)
def test_a_probe_that_is_refused_goes_behind_the_others(probing: PauseKind) -> None:
    """The account stays or is refused, nobody is charged; the next probe takes another appointment."""
    settlement = settled(REFUSED, probing=probing, suspect=True)
    assert (charged(settlement), paused(settlement), settlement.welcome) == (0, "refused", False)
    assert (settlement.turned_away, settlement.failures, settlement.due_in_s) == (True, 0, 0)


@pytest.mark.parametrize("probing", PROBES)
def test_a_probe_that_is_throttled_waits(probing: PauseKind) -> None:
    """No welcome, no charge, and it is not turned away: it is due again with the account."""
    settlement = settled(THROTTLED, probing=probing)
    assert (charged(settlement), paused(settlement), settlement.welcome) == (0, "throttled", False)
    assert (settlement.turned_away, settlement.sign) == (False, None)


@pytest.mark.parametrize("probing", ["down", "refused"])
@pytest.mark.parametrize("outcome", [REJECTED, NO_SUCH])
def test_a_probe_that_is_rejected_was_heard(outcome: Outcome, probing: PauseKind) -> None:
    """The API is up and takes the token: the pause is over, and the change is parked like any other."""
    settlement = settled(outcome, probing=probing)
    assert (charged(settlement), paused(settlement), settlement.welcome) == (1, None, True)
    assert [verdict.state for verdict in settlement.verdicts] == ["parked"]
    assert settlement.own_fault is None


def test_a_probe_that_is_rejected_for_the_same_reason_changes_nothing() -> None:
    """The account stays rejected; the change is neither charged nor parked, and goes behind the others."""
    for count in (1, 3):
        settlement = settled(REJECTED, count=count, probing="rejected", pause_reason=REJECTED.reason)
        assert (settlement.verdicts, paused(settlement), settlement.welcome) == ((), "rejected", False)
        assert (settlement.turned_away, settlement.due_in_s, settlement.part_size) == (True, 0, None)


def test_a_probe_that_is_rejected_for_another_reason_ends_the_pause() -> None:
    """What the account was paused for is over: this is about the change."""
    settlement = settled(REJECTED, probing="rejected", pause_reason=NO_SUCH.reason)
    assert (charged(settlement), paused(settlement), settlement.welcome) == (1, None, True)
    assert [verdict.state for verdict in settlement.verdicts] == ["parked"]


@pytest.mark.parametrize("probing", PROBES)
def test_a_probe_that_was_given_back_says_nothing(probing: PauseKind) -> None:
    """A stop before its first byte: no pause, no welcome, no sign."""
    settlement = release(claim(notes(1), probing=probing))
    assert (settlement.pause, settlement.welcome, settlement.sign, settlement.turned_away) == (None, False, None, False)


# -- suspects --------------------------------------------------------------------------------------------------------


def test_a_suspect_that_is_refused_waits_by_itself() -> None:
    """The API takes others with this token: no pause, no charge, however long that lasts; it backs off."""
    settlement = settled(FORBIDDEN, suspect=True, failures=3)
    assert settlement.due_in_s != 0
    assert (charged(settlement), settlement.pause, settlement.sign) == (0, None, None)
    assert [(verdict.state, verdict.error) for verdict in settlement.verdicts] == [(None, FORBIDDEN.reason)]
    assert (settlement.failures, settlement.turned_away) == (4, False)
    assert settlement.due_in_s is not None
    assert 0 <= settlement.due_in_s <= 16


def test_a_401_is_never_an_appointments_own_fault() -> None:
    """It says that the token is no good, whoever was turned away before: the account pauses."""
    settlement = settled(REFUSED, suspect=True)
    assert settlement.turned_away
    assert settlement.pause is not None
    assert settlement.pause.kind == "refused"


@pytest.mark.parametrize("outcome", [REJECTED, NO_SUCH])
def test_a_suspect_that_is_rejected_is_at_fault(outcome: Outcome) -> None:
    """It is parked, and the run-up is not fed. The account remembers a reason that is the changes' own, and no other: a
    404 may come of a wrong address tomorrow."""
    settlement = settled(outcome, suspect=True)
    assert [(verdict.state, verdict.charged) for verdict in settlement.verdicts] == [("parked", 1)]
    assert (said(settlement), settlement.own_fault) == ("heard", REJECTED.reason if outcome is REJECTED else None)
    assert (settlement.pause, settlement.turned_away) == (None, False)


def test_a_suspect_fold_is_sent_in_parts() -> None:
    """The search for the guilty one goes on as ever."""
    settlement = settled(REJECTED, count=5, suspect=True)
    assert (settlement.part_size, settlement.due_in_s, said(settlement)) == (2, 0, "heard")


@pytest.mark.parametrize(("outcome", "sign", "pause"), [(RETRY, "down", None), (THROTTLED, None, "throttled")])
def test_a_suspect_is_like_any_other_else(outcome: Outcome, sign: str | None, pause: str | None) -> None:
    """A failure counts towards an outage, a 429 pauses the account."""
    settlement = settled(outcome, suspect=True)
    assert (said(settlement), paused(settlement), settlement.own_fault) == (sign, pause, None)
