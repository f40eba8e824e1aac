"""The shapes of the graphs: what is higher is drawn higher, in proportion, and nothing leaves the box."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.lately import Lately, Minute
from worker.trail import Point
from worker.web.charts import HEIGHT, KINDS, ORDER, WIDTH, Bars, bars, kind_of, line
from worker.web.rendering import OUTCOMES

BEGAN = datetime(2026, 11, 24, 8, 30, tzinfo=UTC)
PATH = re.compile(r"M0,[\d.]+(H[\d.]+V[\d.]+)*")


def points(*readings: tuple[float, int]) -> list[Point]:
    """So many seconds after the begin, so many pending."""
    return [Point(BEGAN + timedelta(seconds=after_s), pending, 0.0) for after_s, pending in readings]


def pending(point: Point) -> float:
    return point.pending


def hour(*requests: Mapping[str, int]) -> Lately:
    """Minutes with these requests."""
    minutes = [
        Minute(at=BEGAN + timedelta(minutes=number), requests=given, changes=given, last_at={})
        for number, given in enumerate(requests)
    ]
    return Lately(minutes=tuple(minutes), reasons=())


def drawn(found: Bars) -> list[tuple[str, float, float]]:
    """The kind, the upper edge and the height of each bar."""
    return [(one.kind, one.y, one.height) for one in found.bars]


@pytest.mark.parametrize("few", [[], [(0.0, 5)], [(3.0, 5), (3.0, 9)], [(3.0, 5), (1.0, 9)]])
def test_no_line(few: Sequence[tuple[float, int]]) -> None:
    """Without two moments, one after the other, there is nothing to draw."""
    assert line(points(*few), pending) is None


def test_a_line() -> None:
    """In steps, each figure until the next reading, from one end of the box to the other; the highest at its top."""
    found = line(points((0, 0), (30, 10), (60, 5)), pending)
    assert found is not None
    assert found.stroke == "M0,100.0H0.0V100.0H300.0V0.0H600.0V50.0"
    assert found.area == f"{found.stroke}V100H0Z"
    assert (found.most, found.since, found.until) == (10, BEGAN, BEGAN + timedelta(seconds=60))


def test_a_line_of_zeros() -> None:
    """Nothing waited all the time: at the bottom, and no division by nothing."""
    found = line(points((0, 0), (60, 0)), pending)
    assert found is not None
    assert (found.stroke, found.most) == ("M0,100.0H0.0V100.0H600.0V100.0", 0)


def test_which_figure() -> None:
    """Of what is asked for."""
    found = line([Point(BEGAN, 1, 40.0), Point(BEGAN + timedelta(seconds=1), 1, 80.0)], lambda one: one.oldest_s)
    assert found is not None
    assert (found.most, found.stroke) == (80.0, "M0,50.0H0.0V50.0H600.0V0.0")


@given(st.lists(st.tuples(st.floats(0.001, 1e6), st.integers(0, 10**9)), min_size=2, max_size=30))
def test_a_line_stays_in_the_box(steps: list[tuple[float, int]]) -> None:
    """Whatever is read whenever: a path of plain numbers that goes to the right only, between bottom and top."""
    at_s, readings = 0.0, []
    for gap_s, value in steps:
        at_s += gap_s
        readings.append((at_s, value))
    found = line(points(*readings), pending)
    assert found is not None
    assert PATH.fullmatch(found.stroke)
    xs = [float(x) for x in re.findall(r"H([\d.]+)", found.stroke)]
    ys = [float(y) for y in re.findall(r"[V,]([\d.]+)", found.stroke)]
    assert xs == sorted(xs)
    assert (xs[0], xs[-1]) == (0.0, WIDTH)
    assert all(0 <= y <= HEIGHT for y in ys)
    assert min(ys) == (0.0 if found.most else HEIGHT)


def test_bars() -> None:
    """A minute's bar has its kinds on top of each other, what was accepted below; the highest minute fills the box."""
    found = bars(hour({"synced": 5, "retry": 3, "unknown": 1, "rejected": 1}, {}, {"synced": 2}))
    assert drawn(found) == [
        ("accepted", 50.0, 50.0),
        ("again", 10.0, 40.0),
        ("refused", 0.0, 10.0),
        ("accepted", 80.0, 20.0),
    ]
    assert (found.most, found.since) == (10, BEGAN)
    assert [(one.x, one.width) for one in found.bars] == [(1.0, 198.0)] * 3 + [(401.0, 198.0)]


def test_no_bars() -> None:
    """An hour without a request."""
    assert bars(hour(*[{}] * 60)) == Bars(bars=(), most=0, since=BEGAN)


@given(st.lists(st.dictionaries(st.sampled_from(sorted(OUTCOMES)), st.integers(1, 10**6)), min_size=6, max_size=6))
def test_bars_stay_in_the_box(requests: list[dict[str, int]]) -> None:
    """Whatever was sent: nothing is higher than the box, wider than its minute, or drawn over its neighbour; as many
    parts as there are kinds in the minute."""
    found = bars(hour(*requests))
    assert found.most == max(sum(one.values()) for one in requests)
    assert len(found.bars) == sum(len({kind_of(outcome) for outcome in one}) for one in requests)
    for bar in found.bars:
        number = int(bar.x // 100)
        assert (bar.x, bar.width) == (number * 100 + 1, 98)
        assert -0.02 <= bar.y <= bar.y + bar.height <= HEIGHT + 0.02
        assert kind_of(next(one for one in requests[number] if kind_of(one) == bar.kind)) == bar.kind


def test_the_kinds_of_outcomes() -> None:
    """Accepted, refused, or sent again: that is also what a newer version may write."""
    kinds = {outcome: kind_of(outcome) for outcome in OUTCOMES}
    assert kinds == {
        "synced": "accepted",
        "rejected": "refused",
        "refused": "refused",
        **dict.fromkeys(["retry", "unknown", "not_sent", "throttled"], "again"),
    }
    assert kind_of("something new") == "again"
    assert set(KINDS.values()) <= set(ORDER)
