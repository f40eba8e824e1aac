"""The throttles against the words that define them, for any row of requests."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sandbox.throttle import THROTTLE_NAMES, ThrottleName, make_throttle

WINDOW_S = 5.0
START = 1_700_000_000.0

# Steps of quarter seconds: sums of them are exact, and they meet the edges of windows often.
steps = st.lists(st.integers(0, 24).map(lambda quarters: quarters / 4), min_size=1, max_size=80)
limits = st.integers(1, 5)


@given(steps=steps, limit=limits, whole_seconds=st.booleans())
def test_fixed_allows_the_limit_per_window(steps: list[float], limit: int, whole_seconds: bool) -> None:
    """A window opens with the first request outside the last one, and takes `limit` of them."""
    subject = make_throttle("fixed", limit=limit, window_s=WINDOW_S, whole_seconds=whole_seconds)
    now, opened_at, used = START, -math.inf, 0
    for step in steps:
        now += step
        at = math.floor(now) if whole_seconds else now
        if at - opened_at >= WINDOW_S:
            opened_at, used = at, 0
        used += 1
        assert subject.check(now).allowed is (used <= limit)


@pytest.mark.parametrize("name", ["rolling", "rolling-strict"])
@given(steps=steps, limit=limits, whole_seconds=st.booleans())
def test_rolling_allows_exactly_what_fits(
    name: ThrottleName, steps: list[float], limit: int, whole_seconds: bool
) -> None:
    """A request is allowed exactly if fewer than `limit` that count are younger than the window."""
    subject = make_throttle(name, limit=limit, window_s=WINDOW_S, whole_seconds=whole_seconds)
    now = START
    counted: list[float] = []
    for step in steps:
        now += step
        at = math.floor(now) if whole_seconds else now
        fits = sum(at - earlier < WINDOW_S for earlier in counted) < limit
        assert subject.check(now).allowed is fits
        if fits or name == "rolling-strict":
            counted.append(at)


@given(steps=steps, limit=limits)
def test_bucket_never_gives_more_than_it_was_filled_with(steps: list[float], limit: int) -> None:
    """Over any stretch of time no more than a full bucket and what ran in meanwhile is allowed."""
    subject = make_throttle("bucket", limit=limit, window_s=WINDOW_S)
    now = START
    allowed: list[float] = []
    for step in steps:
        now += step
        if subject.check(now).allowed:
            allowed.append(now)
    for first, since in enumerate(allowed):
        for last in range(first, len(allowed)):
            assert last - first + 1 <= limit + (allowed[last] - since) * limit / WINDOW_S + 1e-3


@given(steps=steps, limit=limits, name=st.sampled_from(THROTTLE_NAMES), whole_seconds=st.booleans())
def test_whoever_waits_as_told_is_let_in(
    steps: list[float], limit: int, name: ThrottleName, whole_seconds: bool
) -> None:
    """Whatever came before, knocking included: the next request at `reset_at` is allowed."""
    subject = make_throttle(name, limit=limit, window_s=WINDOW_S, whole_seconds=whole_seconds)
    now = START
    for step in steps:
        now += step
        last = subject.check(now)
    assert last.retry_after_s == last.reset_at - now >= 0
    assert subject.check(last.reset_at).allowed
