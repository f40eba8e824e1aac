"""The times of a claim and of what follows it, in seconds. Pure functions; time and chance are handed in.

T being one request's timeout:

    lease    2 T, the second for what a dead holder may have left on the wire, and a margin of T/2 for quick retries
    request  over at the latest T after its slot was taken, and T before the lease ends
    start    only while half of T is left for the request: less would turn slow answers into unknown outcomes
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from worker.claims import Claim, Slot

# A 429 that asks for more is taken as a mistake: the account is asked again after this long.
THROTTLE_MAX_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The settings that decide."""

    timeout_s: float
    window_s: float
    backoff_base_s: float
    backoff_max_s: float
    max_attempts: int
    probe_base_s: float
    probe_max_s: float


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
