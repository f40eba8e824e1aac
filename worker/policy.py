"""What follows from an outcome: who is charged, who waits how long, what parks, what pauses the account.

Pure functions; time and chance are handed in.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from worker import parts
from worker.claims import (
    Answer,
    Attempt,
    BudgetTold,
    Claim,
    NewState,
    Pause,
    PauseKind,
    Settlement,
    Sign,
    SignKind,
    Slot,
    UsedSlot,
    Verdict,
)
from worker.contract import disagreements
from worker.merge import Breach, Change, fold, halved, set_by
from worker.outcome import Exchange, NotSent, Outcome, Refused, Rejected, Retry, Synced, Throttled, Unknown
from worker.records import record
from worker.times import THROTTLE_MAX_S, Limits, backoff_s, throttle_s

# Why a change is discarded that newer ones have left nothing of.
SUPERSEDED = "superseded: newer changes have set every field of it since"

_LAST_ERROR_MAX_LENGTH = 500

# What counts as an attempt of the changes.
_BLAMED = (Synced, Retry, Unknown, Rejected)
_BLAMED_AS_PROBE = (Synced, Rejected)


@record
class Sent:
    """One request of a claim: the slot it used and what came of it."""

    slot: Slot
    exchange: Exchange
    token: str | None = None
    """Fingerprint of the token that it carried."""


def worth_a_quick_retry(exchange: Exchange) -> bool:
    """Whether the same request may go out again within its claim."""
    return isinstance(exchange.outcome, Retry | NotSent)


def release(claim: Claim, breaches: Sequence[Breach] = (), outdated: Sequence[Change] = ()) -> Settlement:
    """Gives a claim back for which nothing was sent: no change of it is charged; what breaks the contract parks, and
    what newer changes have made pointless is discarded."""
    left = len(claim.changes) > len(breaches) + len(outdated)
    return Settlement(
        claim=claim,
        upto_id=claim.changes[-1].id if claim.changes else claim.newest_id,
        due_in_s=0.0 if left else None,
        failures=claim.failures,
        part_size=claim.part_size,
        unsure_ids=claim.unsure_ids,
        verdicts=_unsent(breaches, outdated),
        slots=_slots(claim, ()),
    )


def failed(claim: Claim, error: str, limits: Limits, chance: random.Random, sent: Sequence[Sent] = ()) -> Settlement:
    """After a fault of our own in the middle of a claim, `error` its type. Whether a request went out besides those in
    `sent` is not known, so the appointment rests as after an unknown outcome, and is charged, so that it does not come
    back for ever."""
    reason = f"internal error ({error}); see the log"
    answered = [one for one in sent if not isinstance(one.exchange.outcome, NotSent)]
    verdicts = tuple(_retried(change, max(1, len(answered)), reason, limits.max_attempts) for change in claim.changes)
    left = any(verdict.state is None for verdict in verdicts)
    return Settlement(
        claim=claim,
        upto_id=claim.changes[-1].id if claim.changes else claim.newest_id,
        due_in_s=limits.timeout_s + (backoff_s(claim.failures, limits, chance) if left else 0.0),
        failures=claim.failures + 1 if left else 0,
        part_size=claim.part_size,
        unsure_ids=parts.with_unsure(claim, claim.changes),
        verdicts=verdicts,
        attempts=_attempts(answered, tuple(change.id for change in claim.changes)),
        slots=tuple(slot for slot in _slots(claim, answered) if slot.answered_at is not None),
    )


@record
class _Case:
    """A claim whose requests were made, up to the decision over it."""

    claim: Claim
    sound: Sequence[Change]
    """The changes that were sent, in id order."""
    sent: Sequence[Sent]
    charged: int
    """How many of the requests count as attempts of these changes."""
    limits: Limits
    chance: random.Random

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(change.id for change in self.sound)

    def pending(self, reason: str) -> tuple[Verdict, ...]:
        """All of them stay pending."""
        return tuple(_verdict(change, None, self.charged, reason) for change in self.sound)

    def charged_before(self, reason: str) -> tuple[Verdict, ...]:
        """A fault of the account charges nobody; requests that were answered before it, in the same claim, still
        count."""
        return self.pending(reason) if self.charged else ()

    def sign(self, kind: SignKind, reason: str = "") -> Sign:
        return Sign(
            kind=kind,
            started_at=self.sent[0].exchange.started_at,
            told_at=self.sent[-1].exchange.ended_at,
            reason=reason,
            change_ids=self.ids,
            charged=self.charged,
        )

    def pause(self, kind: PauseKind, reason: str, wait_s: float, longest_s: float) -> Pause:
        exchange = self.sent[-1].exchange
        return Pause(
            account=self.claim.account,
            kind=kind,
            reason=reason,
            wait_s=wait_s,
            longest_s=longest_s,
            started_at=exchange.started_at,
            told_at=exchange.ended_at,
        )

    def pause_until_welcome(self, kind: PauseKind, reason: str) -> Pause:
        """A pause that a probe ends."""
        return self.pause(kind, reason, self.limits.probe_base_s, self.limits.probe_max_s)


def settle(
    claim: Claim,
    sound: Sequence[Change],
    sent: Sequence[Sent],
    limits: Limits,
    chance: random.Random,
    *,
    breaches: Sequence[Breach] = (),
    outdated: Sequence[Change] = (),
) -> Settlement:
    """Decides over a claim whose changes (`sound`, in id order) were sent, in one or several requests.

    The last request decides; the ones before it were quick retries, and count where they were answered. A probe that
    fails is the fault of what the account is paused for. `breaches` and `outdated`: the claim's changes that were not
    sent.
    """
    outcome = sent[-1].exchange.outcome
    blamed = _BLAMED_AS_PROBE if claim.probing else _BLAMED
    charged = sum([isinstance(one.exchange.outcome, blamed) for one in sent])
    case = _Case(claim=claim, sound=sound, sent=sent, charged=charged, limits=limits, chance=chance)
    match outcome:
        case Synced():
            decided = _after_synced(case, outcome)
        case NotSent() | Retry() | Unknown():
            decided = _after_failure(case, outcome)
        case Throttled():
            decided = _after_throttled(case, outcome)
        case Refused():
            decided = _after_refused(case, outcome)
        case Rejected():
            decided = _after_rejected(case, outcome)
        case _:
            assert_never(outcome)
    if not breaches and not outdated:
        return decided
    return replace(decided, verdicts=(*_unsent(breaches, outdated), *decided.verdicts))


def _undecided(case: _Case) -> Settlement:
    """What is the same after each outcome; the appointment is due again at once."""
    claim = case.claim
    return Settlement(
        claim=claim,
        upto_id=claim.changes[-1].id,
        due_in_s=0.0,
        failures=claim.failures,
        part_size=claim.part_size,
        unsure_ids=parts.unsure_after(claim, case.sound, [one.exchange.outcome for one in case.sent]),
        attempts=_attempts(case.sent, case.ids),
        slots=_slots(claim, case.sent),
        told=_told(claim, case.sent),
    )


def _after_synced(case: _Case, outcome: Synced) -> Settlement:
    claim, changes = case.claim, case.sound
    setters = set_by(changes)
    mismatches = disagreements(fold(changes), outcome.resource)
    # Nearly every claim ends here, so it is made as it is, and not out of `_undecided`.
    return Settlement(
        claim=claim,
        upto_id=claim.changes[-1].id,
        due_in_s=None,
        failures=0,
        part_size=parts.larger(claim),
        unsure_ids=parts.unsure_beyond(claim, changes),
        verdicts=tuple([_verdict(change, "synced", case.charged, None) for change in changes]),
        answer=Answer(
            fields=outcome.resource.documented(),
            resource=outcome.text,
            last_change_id=changes[-1].id,
            set_by=setters,
        ),
        attempts=_attempts(case.sent, case.ids, mismatches),
        slots=_slots(claim, case.sent),
        welcome=claim.probing is not None,
        sign=case.sign("accepted"),
        told=_told(claim, case.sent),
        mismatches=mismatches,
    )


def _after_failure(case: _Case, outcome: NotSent | Retry | Unknown) -> Settlement:
    rest = case.limits.timeout_s if isinstance(outcome, Unknown) else 0.0
    late = isinstance(outcome, NotSent) and outcome.late
    settlement = replace(
        _undecided(case),
        due_in_s=rest + backoff_s(case.claim.failures, case.limits, case.chance),
        failures=case.claim.failures + 1,
        pause=case.pause_until_welcome("down", outcome.reason) if case.claim.probing and not late else None,
        sign=None if late else case.sign("down", outcome.reason),
    )
    tried = tuple(_retried(change, case.charged, outcome.reason, case.limits.max_attempts) for change in case.sound)
    if len(case.sound) > 1 and any(verdict.state == "parked" for verdict in tried):
        # One of them may be what the API stumbles over; only a change that failed by itself is given up.
        return replace(settlement, part_size=halved(len(case.sound)), verdicts=case.pending(outcome.reason))
    if tried[0].state == "parked":
        # The API may be at it still: what comes next, a newer change or a person's, waits as after any unknown outcome.
        return replace(
            settlement, due_in_s=rest or None, failures=0, part_size=parts.larger(case.claim), verdicts=tried
        )
    return replace(settlement, verdicts=tried)


def _after_throttled(case: _Case, outcome: Throttled) -> Settlement:
    wait_s = throttle_s(outcome.hints_s, case.limits.window_s)
    absurd_s = max((hint for hint in outcome.hints_s if hint > THROTTLE_MAX_S), default=None)
    return replace(
        _undecided(case),
        verdicts=case.charged_before(outcome.reason),
        pause=replace(case.pause("throttled", outcome.reason, wait_s, wait_s), absurd_s=absurd_s),
    )


def _after_refused(case: _Case, outcome: Refused) -> Settlement:
    if outcome.status == 403 and case.claim.suspect and not case.claim.probing:
        # The API takes others with this token, so this one waits by itself and holds up nobody. A 401 is the token's.
        return replace(
            _undecided(case),
            due_in_s=backoff_s(case.claim.failures, case.limits, case.chance),
            failures=case.claim.failures + 1,
            verdicts=case.pending(outcome.reason),
        )
    return replace(
        _undecided(case),
        turned_away=True,
        verdicts=case.charged_before(outcome.reason),
        pause=replace(case.pause_until_welcome("refused", outcome.reason), token=case.sent[-1].token),
    )


def _after_rejected(case: _Case, outcome: Rejected) -> Settlement:
    claim = case.claim
    if claim.probing == "rejected" and claim.pause_reason == outcome.reason:
        pause = case.pause_until_welcome("rejected", outcome.reason)
        return replace(_undecided(case), turned_away=True, pause=pause)
    together = None if outcome.whole else parts.together(claim, case.sound)
    if together:
        # Nobody is blamed yet: as many refusals as these have been sent would else give up who is innocent.
        case = replace(case, charged=0)
    settlement = replace(
        _undecided(case),
        failures=0,
        welcome=claim.probing is not None,
        sign=case.sign("heard") if claim.suspect else case.sign("rejected", outcome.reason),
        # 422 speaks of the body. Anything else may be said to a wrong address as well, and is judged anew each time.
        own_fault=outcome.reason if claim.suspect and outcome.status == 422 else None,
    )
    if len(case.sound) > 1 and not outcome.whole:
        return replace(settlement, part_size=together or halved(len(case.sound)), verdicts=case.pending(outcome.reason))
    return replace(
        settlement,
        due_in_s=None,
        part_size=parts.larger(claim),
        verdicts=tuple(
            _verdict(change, "parked", case.charged, outcome.reason, outcome.messages) for change in case.sound
        ),
    )


def _verdict(change: Change, state: NewState, charged: int, error: str | None, messages: str | None = None) -> Verdict:
    text = None if error is None else error[:_LAST_ERROR_MAX_LENGTH]
    return Verdict(change_id=change.id, state=state, charged=charged, error=text, messages=messages)


def _retried(change: Change, charged: int, reason: str, max_attempts: int) -> Verdict:
    """Pending still, unless it had all the requests it may have. One that was not sent now is not given up now."""
    if charged and change.attempts + charged >= max_attempts:
        return _verdict(change, "parked", charged, f"gave up after {change.attempts + charged} attempts: {reason}")
    return _verdict(change, None, charged, reason)


def _unsent(breaches: Sequence[Breach], outdated: Sequence[Change]) -> tuple[Verdict, ...]:
    """What becomes of changes that are not sent."""
    return (
        *(
            _verdict(breach.change, "parked", 0, "breaks the API's contract: " + "; ".join(map(str, breach.problems)))
            for breach in breaches
        ),
        *(_verdict(change, "discarded", 0, SUPERSEDED) for change in outdated),
    )


def _told(claim: Claim, sent: Sequence[Sent]) -> BudgetTold | None:
    """What the newest answer that spoke of the budget said."""
    for one in reversed(sent):
        exchange = one.exchange
        if exchange.limit is not None or exchange.remaining is not None:
            return BudgetTold(
                account=claim.account,
                limit=exchange.limit,
                remaining=exchange.remaining,
                started_at=exchange.started_at,
            )
    return None


def _attempts(
    sent: Sequence[Sent], change_ids: tuple[int, ...], mismatches: tuple[str, ...] = ()
) -> tuple[Attempt, ...]:
    """The log of the requests that went out. What was not sent was no request."""
    exchanges = [one.exchange for one in sent]
    return tuple(
        [
            Attempt(
                change_ids=change_ids,
                started_at=exchange.started_at,
                duration_s=exchange.ended_at - exchange.started_at,
                http_status=exchange.outcome.status,
                outcome=exchange.outcome.name,
                error=_attempt_error(exchange.outcome, mismatches),
            )
            for exchange in exchanges
            if not isinstance(exchange.outcome, NotSent)
        ]
    )


def _attempt_error(outcome: Outcome, mismatches: tuple[str, ...]) -> str | None:
    if isinstance(outcome, Synced):
        return f"answer differs from what was sent: {', '.join(mismatches)}" if mismatches else None
    return outcome.reason


def _slots(claim: Claim, sent: Sequence[Sent]) -> tuple[UsedSlot, ...]:
    """Which slots cool from when. After an unknown outcome the worst case stands, so the slot is not touched."""
    last_use: dict[int, UsedSlot] = {claim.slot.number: UsedSlot(slot=claim.slot, answered_at=None)}
    for one in sent:
        match one.exchange.outcome:
            case NotSent():
                last_use[one.slot.number] = UsedSlot(slot=one.slot, answered_at=None)
            case Unknown():
                last_use.pop(one.slot.number, None)
            case Throttled():
                answered_at = one.exchange.ended_at
                last_use[one.slot.number] = UsedSlot(slot=one.slot, answered_at=answered_at, throttled=True)
            case _:
                last_use[one.slot.number] = UsedSlot(slot=one.slot, answered_at=one.exchange.ended_at)
    return tuple(last_use.values())
