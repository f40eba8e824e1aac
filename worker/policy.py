"""What follows from an outcome: who is charged, who waits how long, what parks, what pauses the account.

Pure functions; time and chance are handed in.

The times of a claim, T being one request's timeout:

    lease    2 T, the second for what a dead holder may have left on the wire, and a margin of T/2 for quick retries
    request  over at the latest T after its slot was taken, and T before the lease ends
    start    only while half of T is left for the request: less would turn slow answers into unknown outcomes
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from worker.claims import Answer, Attempt, Claim, NewState, Pause, PauseKind, Settlement, Slot, UsedSlot, Verdict
from worker.contract import disagreements
from worker.merge import Breach, Change, doubled, fold, halved
from worker.outcome import Exchange, NotSent, Refused, Rejected, Retry, Synced, Throttled, Unknown

# A 429 that asks for more is taken as a mistake: the account is asked again after this long.
THROTTLE_MAX_S = 3600.0
# A refused account is probed after this long, then twice as long each time, up to the longest.
REFUSED_BASE_S = 30.0
REFUSED_MAX_S = 900.0

_LAST_ERROR_MAX_LENGTH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The settings that decide."""

    timeout_s: float
    window_s: float
    backoff_base_s: float
    backoff_max_s: float
    max_attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request of a claim: the slot it used and what came of it."""

    slot: Slot
    exchange: Exchange


def lease_s(timeout_s: float) -> float:
    """Seconds for which a claim is held; see the table above."""
    return 2.5 * timeout_s


def deadline(claim: Claim, slot: Slot, timeout_s: float) -> float:
    """When a request has to be over, by `clock.now()`: within its slot's worst case, and a timeout before the lease
    ends."""
    lease_ends = claim.claimed_at + lease_s(timeout_s)
    return min(slot.taken_at + timeout_s, lease_ends - timeout_s)


def may_retry(claim: Claim, now: float, timeout_s: float) -> bool:
    """Whether it is worth taking another slot for the claim at `now`."""
    return may_start(now, claim.claimed_at + lease_s(timeout_s) - timeout_s, timeout_s)


def may_start(now: float, deadline: float, timeout_s: float) -> bool:
    """Whether enough of the claim is left to start a request at `now`."""
    return deadline - now >= timeout_s / 2


def worth_a_quick_retry(exchange: Exchange) -> bool:
    """Whether the same request may go out again within its claim."""
    return isinstance(exchange.outcome, Retry | NotSent)


def backoff_s(failures: int, limits: Limits, chance: random.Random) -> float:
    """Exponential with full jitter: 0 to base · 2^failures, capped (Brooker, "Exponential Backoff And Jitter")."""
    return chance.uniform(0, min(limits.backoff_max_s, limits.backoff_base_s * 2 ** min(failures, 60)))


def throttle_s(hints_s: Sequence[float], window_s: float) -> float:
    """For how long a 429 pauses the account: the longest wait that was asked for and is sane; a whole window, when the
    answer said nothing."""
    sane = [hint for hint in hints_s if hint <= THROTTLE_MAX_S]
    if sane:
        return max(sane)
    return THROTTLE_MAX_S if hints_s else window_s


def release(claim: Claim, breaches: Sequence[Breach] = ()) -> Settlement:
    """Gives a claim back for which nothing was sent: no change of it is charged; what breaks the contract parks."""
    left = len(claim.changes) > len(breaches)
    return Settlement(
        claim=claim,
        upto_id=claim.changes[-1].id if claim.changes else claim.newest_id,
        due_in_s=0.0 if left else None,
        failures=claim.failures,
        part_size=claim.part_size,
        verdicts=tuple(_parked_unsent(breach) for breach in breaches),
        slots=_slots(claim, ()),
    )


def failed(claim: Claim, error: str, limits: Limits, chance: random.Random) -> Settlement:
    """After a fault of our own in the middle of a claim, `error` its type: whether a request went out is not known, so
    the appointment rests as after an unknown outcome, and is charged, so that it does not come back for ever."""
    reason = f"internal error ({error}); see the log"
    verdicts = tuple(_retried(change, 1, reason, limits.max_attempts) for change in claim.changes)
    left = any(verdict.state is None for verdict in verdicts)
    return Settlement(
        claim=claim,
        upto_id=claim.changes[-1].id if claim.changes else claim.newest_id,
        due_in_s=limits.timeout_s + backoff_s(claim.failures, limits, chance) if left else None,
        failures=claim.failures + 1 if left else 0,
        part_size=claim.part_size,
        verdicts=verdicts,
    )


def settle(
    claim: Claim,
    sound: Sequence[Change],
    breaches: Sequence[Breach],
    sent: Sequence[Sent],
    limits: Limits,
    chance: random.Random,
    *,
    api_down: bool = False,
) -> Settlement:
    """Decides over a claim whose changes (`sound`, in id order) were sent, in one or several requests.

    The last request decides; the ones before it were quick retries, and count where they were answered. `api_down`: the
    API fails whichever appointment is sent, so that failing is no fault of these changes.
    """
    outcome = sent[-1].exchange.outcome
    blamed = Synced | Rejected if api_down else Synced | Retry | Unknown | Rejected
    charged = sum(isinstance(one.exchange.outcome, blamed) for one in sent)
    mismatches: tuple[str, ...] = ()
    answer: Answer | None = None
    pause: Pause | None = None
    due_in_s: float | None = 0.0
    failures = claim.failures
    part_size = claim.part_size
    verdicts = [_parked_unsent(breach) for breach in breaches]
    upto_id = claim.changes[-1].id

    match outcome:
        case Synced():
            due_in_s, failures = None, 0
            part_size = _next_part(claim, len(claim.changes))
            mismatches = disagreements(fold(sound), outcome.resource)
            answer = Answer(
                fields=outcome.resource.model_dump_json(include=set(type(outcome.resource).model_fields)),
                resource=outcome.text,
                last_change_id=sound[-1].id,
            )
            verdicts += [_verdict(change, "synced", charged, None) for change in sound]
        case NotSent() | Retry() | Unknown():
            rest = limits.timeout_s if isinstance(outcome, Unknown) else 0.0
            due_in_s = rest + backoff_s(claim.failures, limits, chance)
            failures += 1
            tried = [_retried(change, charged, outcome.reason, limits.max_attempts) for change in sound]
            if len(sound) > 1 and any(verdict.state == "parked" for verdict in tried):
                # One of them may be what the API stumbles over; only a change that failed by itself is given up.
                part_size = halved(len(sound))
                tried = [_verdict(change, None, charged, outcome.reason) for change in sound]
            elif tried[0].state == "parked":
                due_in_s, failures, part_size = None, 0, _next_part(claim, len(claim.changes))
            verdicts += tried
        case Throttled():
            pause = _pause(claim, sent[-1], "throttled", outcome.reason, throttle_s(outcome.hints_s, limits.window_s))
            verdicts += _charged_before(sound, charged, outcome.reason)
        case Refused():
            pause = _pause(claim, sent[-1], "refused", outcome.reason, REFUSED_BASE_S)
            verdicts += _charged_before(sound, charged, outcome.reason)
        case Rejected() if len(sound) > 1 and not outcome.whole:
            failures, part_size = 0, halved(len(sound))
            verdicts += [_verdict(change, None, charged, outcome.reason) for change in sound]
        case Rejected():
            due_in_s, failures = None, 0
            part_size = _next_part(claim, len(claim.changes))
            verdicts += [_verdict(change, "parked", charged, outcome.reason) for change in sound]
        case _:
            assert_never(outcome)

    return Settlement(
        claim=claim,
        upto_id=upto_id,
        due_in_s=due_in_s,
        failures=failures,
        part_size=part_size,
        verdicts=tuple(verdicts),
        answer=answer,
        attempts=_attempts(sent, tuple(change.id for change in sound), mismatches),
        slots=_slots(claim, sent),
        pause=pause,
        welcome=claim.probe and isinstance(outcome, Synced | Rejected),
        mismatches=mismatches,
    )


def _next_part(claim: Claim, size: int) -> int | None:
    """After a part of `size` changes is dealt with: twice as many, or all, when nothing was left out."""
    if claim.part_size is None or size < claim.part_size:
        return None
    return doubled(claim.part_size)


def _verdict(change: Change, state: NewState, charged: int, error: str | None) -> Verdict:
    text = None if error is None else error[:_LAST_ERROR_MAX_LENGTH]
    return Verdict(change_id=change.id, state=state, charged=charged, error=text)


def _retried(change: Change, charged: int, reason: str, max_attempts: int) -> Verdict:
    """Pending still, unless it had all the requests it may have. One that was not sent now is not given up now."""
    if charged and change.attempts + charged >= max_attempts:
        return _verdict(change, "parked", charged, f"gave up after {change.attempts + charged} attempts: {reason}")
    return _verdict(change, None, charged, reason)


def _charged_before(sound: Sequence[Change], charged: int, reason: str) -> list[Verdict]:
    """A fault of the account charges nobody; requests that were answered before it, in the same claim, still count."""
    return [_verdict(change, None, charged, reason) for change in sound] if charged else []


def _parked_unsent(breach: Breach) -> Verdict:
    text = "breaks the API's contract: " + "; ".join(map(str, breach.problems))
    return _verdict(breach.change, "parked", 0, text)


def _pause(claim: Claim, sent: Sent, kind: PauseKind, reason: str, wait_s: float) -> Pause:
    return Pause(
        account=claim.account,
        kind=kind,
        reason=reason,
        wait_s=wait_s,
        longest_s=max(wait_s, REFUSED_MAX_S),
        started_at=sent.exchange.started_at,
        told_at=sent.exchange.ended_at,
    )


def _attempts(
    sent: Sequence[Sent], change_ids: tuple[int, ...], mismatches: tuple[str, ...] = ()
) -> tuple[Attempt, ...]:
    """The log of the requests that went out. What was not sent was no request."""
    return tuple(
        Attempt(
            change_ids=change_ids,
            started_at=one.exchange.started_at,
            duration_s=one.exchange.ended_at - one.exchange.started_at,
            http_status=one.exchange.outcome.status,
            outcome=one.exchange.outcome.name,
            error=_attempt_error(one, mismatches),
        )
        for one in sent
        if not isinstance(one.exchange.outcome, NotSent)
    )


def _attempt_error(one: Sent, mismatches: tuple[str, ...]) -> str | None:
    outcome = one.exchange.outcome
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
            case _:
                last_use[one.slot.number] = UsedSlot(slot=one.slot, answered_at=one.exchange.ended_at)
    return tuple(last_use.values())
