"""How backlog and age went: a few hundred points, however long the service runs and however often it is read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.statuses import account, found
from worker.status import Stranger
from worker.trail import LONGEST, MOST_POINTS, Trail

BEGAN = datetime(2026, 11, 24, 8, 30, tzinfo=UTC)


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.at = BEGAN

    def now(self) -> datetime:
        return self.at


def trail_of(clock: Clock, gaps_s: Sequence[float]) -> Trail:
    """What came of a reading after each of these gaps; the nth of them found n pending."""
    trail = Trail(now=clock.now)
    for number, gap_s in enumerate(gaps_s):
        clock.at += timedelta(seconds=gap_s)
        trail.add(found(account(live=number)))
    return trail


def gaps_s(trail: Trail) -> list[float]:
    """Between one point and the next."""
    points = trail.points
    return [(later.at - at.at).total_seconds() for at, later in pairwise(points)]


def test_a_point() -> None:
    """What waits in all accounts together, those that nobody has taken up among them, and the age of the oldest."""
    trail = Trail(now=Clock().now)
    assert trail.points == ()
    trail.add(found())
    trail.add(
        found(
            account("a", live=2, backfill=3, oldest_s=7.0),
            account("b", live=1, oldest_s=90.0),
            account("c"),
            strangers=(Stranger(account="x", changes=4, oldest_s=20.0),),
        )
    )
    first, second = trail.points
    assert (first.at, first.pending, first.oldest_s) == (BEGAN, 0, 0.0)
    assert (second.at, second.pending, second.oldest_s) == (BEGAN, 10, 90.0)
    trail.add(found(strangers=(Stranger(account="x", changes=1, oldest_s=600.0),)))
    assert trail.points[-1].oldest_s == 600.0


def test_one_a_second_at_first() -> None:
    """Of more in a second, the newest stays."""
    trail = trail_of(Clock(), [0.0] + [0.25] * 40)
    assert trail.points[-1].pending == 40
    assert len(trail.points) == pytest.approx(11, abs=1)
    assert all(gap == pytest.approx(1.0, abs=0.26) for gap in gaps_s(trail)[:-1])


def test_the_newest_is_always_there() -> None:
    """However soon it came after the one before, and whenever points were thinned out, so that they are never many."""
    clock = Clock()
    trail = Trail(now=clock.now)
    for number in range(5000):
        clock.at += timedelta(seconds=0.4)
        trail.add(found(account(live=number)))
        assert (trail.points[-1].pending, trail.points[-1].at) == (number, clock.at)
        assert len(trail.points) <= MOST_POINTS


def test_from_its_begin_until_now() -> None:
    """Up to six hours, nothing but the points between is dropped: the graph begins where the service did."""
    trail = trail_of(Clock(), [1.0] * 5 * 3600)
    points = trail.points
    assert points[-1].at == BEGAN + timedelta(hours=5)
    assert points[0].at <= BEGAN + timedelta(minutes=2)
    assert MOST_POINTS / 2 <= len(points) <= MOST_POINTS


def test_six_hours_at_one_a_minute() -> None:
    """After a day there are the last six hours, and a point for each minute or so."""
    trail = trail_of(Clock(), [5.0] * 24 * 720)
    points = trail.points
    assert points[-1].at == BEGAN + timedelta(days=1)
    assert timedelta(hours=5, minutes=55) <= points[-1].at - points[0].at <= LONGEST == timedelta(hours=6)
    assert all(60 <= gap <= 70 for gap in gaps_s(trail)[:-1])


def test_seldom_readings_are_all_kept() -> None:
    """Nobody looks, and a scrape comes every two minutes: each is a point."""
    trail = trail_of(Clock(), [120.0] * 180)
    assert [point.pending for point in trail.points] == list(range(180))


def test_nothing_is_kept_for_days() -> None:
    """Six hours at the most, also where points are few: what is drawn is today, and as fine as it can be."""
    trail = trail_of(Clock(), [300.0] * MOST_POINTS)
    assert trail.points[-1].at - trail.points[0].at == LONGEST
    trail = trail_of(Clock(), [1.0, 1.0, 7 * 3600.0])
    assert [point.pending for point in trail.points] == [2]


def test_a_clock_that_is_put_back() -> None:
    """What was later than now goes: a line does not run backwards."""
    clock = Clock()
    trail = trail_of(clock, [10.0] * 10)
    clock.at -= timedelta(seconds=45)
    trail.add(found(account(live=99)))
    assert [point.pending for point in trail.points] == [0, 1, 2, 3, 4, 99]
    clock.at += timedelta(seconds=10)
    trail.add(found(account(live=100)))
    assert [point.pending for point in trail.points[-2:]] == [99, 100]


@given(st.lists(st.floats(-100.0, 400.0), min_size=1, max_size=1500))
def test_whatever_comes(gaps: list[float]) -> None:
    """Never too many points, nor too old ones; in the order of time; the newest always among them."""
    clock = Clock()
    trail = trail_of(clock, gaps)
    points = trail.points
    assert 1 <= len(points) <= MOST_POINTS
    assert points[-1].at - points[0].at <= LONGEST
    assert [point.at for point in points] == sorted(point.at for point in points)
    assert (points[-1].at, points[-1].pending) == (clock.at, len(gaps) - 1)
