"""The throttles, in simulated time."""

from __future__ import annotations

import random

import pytest

from worker.sandbox.throttle import THROTTLE_NAMES, Check, Throttle, ThrottleName, make_throttle

LIMIT = 3
WINDOW_S = 10.0
# A real Unix time, so that the floats are as coarse as in life.
START = 1_700_000_000.25


def throttle(name: ThrottleName, *, whole_seconds: bool = False) -> Throttle:
    return make_throttle(name, limit=LIMIT, window_s=WINDOW_S, whole_seconds=whole_seconds)


def allowed(subject: Throttle, *after_s: float) -> list[bool]:
    return [subject.check(START + seconds).allowed for seconds in after_s]


@pytest.mark.parametrize("name", THROTTLE_NAMES)
def test_remaining_counts_down_to_the_refusal(name: ThrottleName) -> None:
    """Exactly the limit is let in at once, `remaining` says how many more, and a refusal says when."""
    subject = throttle(name)
    checks = [subject.check(START) for _ in range(LIMIT)]
    assert [(check.allowed, check.remaining) for check in checks] == [(True, 2), (True, 1), (True, 0)]
    assert checks[0].retry_after_s == 0
    refused = subject.check(START)
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert refused.reset_at == START + refused.retry_after_s > START


@pytest.mark.parametrize("name", THROTTLE_NAMES)
@pytest.mark.parametrize("whole_seconds", [False, True])
def test_reset_at_is_the_first_moment_that_lets_in(name: ThrottleName, whole_seconds: bool) -> None:
    """A request at `reset_at` is allowed, one a moment earlier is not, wherever the requests before it lay."""
    chance = random.Random(7)
    for _ in range(200):
        times = sorted(START + chance.uniform(0, 8) for _ in range(6))
        on_time, early = throttle(name, whole_seconds=whole_seconds), throttle(name, whole_seconds=whole_seconds)
        for at in times:
            last = on_time.check(at)
            early.check(at)
        if last.reset_at > times[-1]:
            assert not early.check(last.reset_at - 0.001).allowed
        assert on_time.check(last.reset_at).allowed


def test_fixed_resets_a_window_after_the_first_request() -> None:
    """The window opens with the first request, and all of it is free again exactly one window later."""
    subject = throttle("fixed")
    assert allowed(subject, 0, 9, 9.9, 9.999) == [True, True, True, False]
    assert allowed(subject, 10, 10, 10, 10) == [True, True, True, False]


def test_fixed_opens_a_window_with_a_request_not_by_the_calendar() -> None:
    """After a pause the next window is counted from the request that ends the pause."""
    subject = throttle("fixed")
    assert allowed(subject, 0, 25, 34, 34.9, 34.99) == [True, True, True, True, False]
    assert allowed(subject, 35) == [True]


def test_rolling_frees_each_request_when_it_is_a_window_old() -> None:
    """Requests count one by one until each is a window old, to the moment."""
    subject = throttle("rolling")
    assert allowed(subject, 0, 4, 8, 9.999) == [True, True, True, False]
    assert allowed(subject, 10, 10, 13.999, 14, 14) == [True, False, False, True, False]


def test_rolling_forgives_refused_requests() -> None:
    """Knocking while refused costs nothing."""
    subject = throttle("rolling")
    assert allowed(subject, 0, 0, 0, 5, 6, 7, 8, 9) == [True] * 3 + [False] * 5
    assert allowed(subject, 10, 10, 10) == [True, True, True]


def test_rolling_strict_punishes_refused_requests() -> None:
    """A refused request counts as well, so only silence opens the door again."""
    subject = throttle("rolling-strict")
    assert allowed(subject, 0, 0, 0, 5) == [True, True, True, False]
    # Two of the four are gone at 10; the refused one at 5 still counts, and so does each of these.
    assert allowed(subject, 10, 10, 10) == [True, True, False]
    knocking = throttle("rolling-strict")
    assert allowed(knocking, *range(40)) == [True] * 3 + [False] * 37
    assert allowed(knocking, 48.999) == [True]


def test_bucket_refills_evenly() -> None:
    """The bucket holds the limit and gives back one request each window/limit seconds, up to its brim."""
    subject = throttle("bucket")
    assert allowed(subject, 0, 0, 0, 0, 3.33, 3.34, 3.34) == [True, True, True, False, False, True, False]
    assert allowed(subject, 1000, 1000, 1000, 1000) == [True, True, True, False]


def test_whole_seconds_may_let_in_almost_a_second_early() -> None:
    """Counting in whole seconds, a request late in its second is forgotten up to a second early."""
    for name in ("fixed", "rolling"):
        subject = throttle(name, whole_seconds=True)
        # START is a quarter past the second: 0.7 later is its end, and 9.75 later the tenth second begins.
        assert allowed(subject, 0.7, 0.7, 0.7, 9.74, 9.75) == [True, True, True, False, True]


def test_whole_seconds_tell_whole_seconds() -> None:
    """What the server says of the reset is a whole second by its clock, and the wait until then is exact."""
    subject = throttle("rolling", whole_seconds=True)
    checks = [subject.check(START) for _ in range(LIMIT + 1)]
    assert checks[-1] == Check(False, 0, START - 0.25 + 10, 9.75)


@pytest.mark.parametrize("name", ["fixed", "rolling", "rolling-strict"])
def test_no_window_sees_more_than_the_limit(name: ThrottleName) -> None:
    """However requests arrive, a rolling window never holds more than the limit, and a fixed one at most twice that."""
    chance = random.Random(11)
    subject = throttle(name)
    let_in: list[float] = []
    at = START
    for _ in range(3000):
        at += chance.expovariate(1.0)
        if subject.check(at).allowed:
            let_in.append(at)
    most = max(sum(1 for other in let_in if first <= other < first + WINDOW_S) for first in let_in)
    assert most <= (2 * LIMIT if name == "fixed" else LIMIT)


def test_bad_settings_are_refused() -> None:
    """A limit below 1, a window that is no length of time and an unknown name are errors that say what is allowed."""
    with pytest.raises(ValueError, match="limit must be at least 1"):
        make_throttle("fixed", limit=0, window_s=1)
    for window_s in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="window_s"):
            make_throttle("fixed", limit=1, window_s=window_s)
    with pytest.raises(ValueError, match="fixed, rolling, rolling-strict, bucket"):
        make_throttle("leaky", limit=1, window_s=1)  # type: ignore[arg-type]
