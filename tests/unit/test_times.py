"""The times of a claim: lease, deadline, the last moment to start, and how long an appointment backs off."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.settlements import LIMITS, claim, notes, slot
from worker.claims import Claim, Slot
from worker.times import THROTTLE_MAX_S, Limits, backoff_s, deadline, lease_s, may_retry, may_start, throttle_s

# Sums of floats may be off by this much.
EPSILON = 1e-6

timeouts = st.floats(0.1, 600)
moments = st.floats(0, 1e6)


def claimed_at(moment: float) -> Claim:
    return replace(claim(notes(1)), slot=slot(1, taken_at=moment))


@given(timeout_s=timeouts, claimed=moments, slot_later=st.floats(0, 2000), now_later=st.floats(0, 2000))
def test_what_may_start_ends_in_time(timeout_s: float, claimed: float, slot_later: float, now_later: float) -> None:
    """A request that starts when it may is over within its slot's worst case, and a timeout before the lease ends.

    The client ends a request at its deadline or after a timeout, whichever is first.
    """
    held = claimed_at(claimed)
    used = slot(2, taken_at=claimed + slot_later)
    now = used.taken_at + now_later
    ends_by = deadline(held, used, timeout_s)
    assume(may_start(now, ends_by, timeout_s))
    ends_at = now + min(timeout_s, ends_by - now)
    assert ends_at <= used.taken_at + timeout_s + EPSILON
    assert ends_at + timeout_s <= claimed + lease_s(timeout_s) + EPSILON


@given(timeout_s=timeouts, claimed=moments, slot_later=st.floats(0, 2000), now_later=st.floats(0, 2000))
def test_what_may_start_has_half_a_timeout(
    timeout_s: float, claimed: float, slot_later: float, now_later: float
) -> None:
    """Less would turn slow answers into unknown outcomes; and no more is asked for."""
    held, used = claimed_at(claimed), slot(2, taken_at=claimed + slot_later)
    now = used.taken_at + now_later
    left = min(used.taken_at + timeout_s, claimed + lease_s(timeout_s) - timeout_s) - now
    if may_start(now, deadline(held, used, timeout_s), timeout_s):
        assert left >= timeout_s / 2 - EPSILON
    else:
        assert left < timeout_s / 2 + EPSILON


@given(timeout_s=timeouts, claimed=moments, taken=st.floats(0, 0.45))
def test_a_fresh_claim_may_start_with_a_whole_timeout(timeout_s: float, claimed: float, taken: float) -> None:
    """Although nearly half a timeout may pass between the claim's statement and the first byte."""
    held = claimed_at(claimed)
    ends_by = deadline(held, held.slot, timeout_s)
    assert ends_by == pytest.approx(claimed + timeout_s)
    assert may_start(claimed + taken * timeout_s, ends_by, timeout_s)


@given(timeout_s=timeouts, claimed=moments, spent=st.floats(0, 0.95))
def test_a_quick_retry_fits_after_an_answer_in_good_time(timeout_s: float, claimed: float, spent: float) -> None:
    """The lease's margin is there for it: with its slot taken within a timeout of the claim, a retry may start."""
    held = claimed_at(claimed)
    again = slot(2, taken_at=claimed + spent * timeout_s)
    assert may_start(again.taken_at, deadline(held, again, timeout_s), timeout_s)


@given(timeout_s=timeouts, claimed=moments, late=st.floats(0, 1e6))
def test_a_worker_that_was_frozen_starts_nothing(timeout_s: float, claimed: float, late: float) -> None:
    """Thawed when its slot's or its claim's time is up, or later, it does not start, whichever slot it holds."""
    held = claimed_at(claimed)
    slots: list[Slot] = [held.slot, slot(2, taken_at=claimed + timeout_s)]
    for used in slots:
        ends_by = deadline(held, used, timeout_s)
        assert not may_start(ends_by + late, ends_by, timeout_s)
        assert not may_start(claimed + lease_s(timeout_s) - timeout_s + late, ends_by, timeout_s)


@given(timeout_s=timeouts)
def test_a_lease_is_two_timeouts_and_a_margin(timeout_s: float) -> None:
    """The second timeout is for what a dead holder may have left on the wire; and whoever dies holds an appointment up
    for no longer."""
    assert lease_s(timeout_s) == 2.5 * timeout_s


@given(timeout_s=timeouts, claimed=moments, spent=st.floats(0, 3))
def test_another_slot_is_worth_it_while_its_request_may_start(timeout_s: float, claimed: float, spent: float) -> None:
    """One that would be taken now."""
    held, now = claimed_at(claimed), claimed + spent * timeout_s
    assert may_retry(held, now, timeout_s) == may_start(now, deadline(held, slot(2, now), timeout_s), timeout_s)
    assert may_retry(held, claimed, timeout_s)


def test_what_has_just_half_a_timeout_may_start() -> None:
    """The first instant at which it may not is the next one."""
    assert may_start(85.0, 100.0, 30.0)
    assert not may_start(85.001, 100.0, 30.0)


# -- backoff ---------------------------------------------------------------------------------------------------------


@given(
    failures=st.integers(0, 2**31 - 1),
    base_s=st.floats(0.001, 3600),
    longest_s=st.floats(0.001, 86_400),
    seed=st.integers(0, 2**32),
)
def test_a_backoff_is_within_its_bounds(failures: int, base_s: float, longest_s: float, seed: int) -> None:
    """Between 0 and base · 2^failures, and never longer than the longest, however many failures there were."""
    limits = replace(LIMITS, backoff_base_s=base_s, backoff_max_s=longest_s)
    wait_s = backoff_s(failures, limits, random.Random(seed))
    assert 0 <= wait_s <= longest_s
    if failures < 1000:
        assert wait_s <= base_s * 2.0**failures * (1 + EPSILON)


@pytest.mark.parametrize(("failures", "cap"), [(0, 2), (1, 4), (5, 64), (8, 512), (9, 900), (60, 900), (100_000, 900)])
def test_a_backoff_is_spread_over_all_of_its_range(failures: int, cap: float) -> None:
    """Full jitter: appointments that failed together do not come back together, not even at the cap."""
    chance = random.Random(7)
    waits = sorted(backoff_s(failures, LIMITS, chance) for _ in range(4000))
    for tenth in range(1, 10):
        assert waits[400 * tenth] == pytest.approx(cap * tenth / 10, rel=0.1, abs=cap * 0.03)


def test_a_backoff_is_reproducible() -> None:
    """Chance is handed in: the same seed, the same waits."""
    limits: Limits = LIMITS
    once, again = ([backoff_s(n, limits, random.Random(3)) for n in range(9)] for _ in range(2))
    assert once == again


# -- throttles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hints_s", "waits_s"),
    [
        ((), 60.0),
        ((7.0,), 7.0),
        ((7.0, 30.0, 0.5), 30.0),
        ((THROTTLE_MAX_S,), THROTTLE_MAX_S),
        ((7.0, THROTTLE_MAX_S), THROTTLE_MAX_S),
        ((7.0, 1e9), 7.0),
        ((1e9, float("inf")), THROTTLE_MAX_S),
    ],
)
def test_how_long_a_throttle_lasts(hints_s: tuple[float, ...], waits_s: float) -> None:
    """The longest hint that is sane; a window when there is none; an hour when all are absurd."""
    assert throttle_s(hints_s, 60.0) == waits_s
