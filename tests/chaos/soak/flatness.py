"""Whether what was sampled stayed flat: a judgement over numbers, which knows nothing of where they come from.

What is healthy goes up and down all the same: tables between two vacuums, memory with each request on the wire. So no
two samples are compared, but medians of many, and a single outlier decides nothing. The first quarter of a run is its
warm-up and counts for nothing, and the median of the second quarter is the level. What was sampled has grown if both
the median of the last quarter and the slope of Theil and Sen (the median of the slopes between all pairs of points)
say that from the middle of the one to the middle of the other, half a run later, it rose by more than it may.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WARM_UP = 0.25
"""The share of a run that does not count."""
FEWEST = 5
"""Samples in a quarter: with fewer, chance decides."""
# What all pairs are made of; more points than these are first put together, so that a long run is judged as quickly.
_POINTS_MAX = 120

Point = tuple[float, float]
"""When, in seconds, and how much."""


@dataclass(frozen=True, slots=True)
class Flat:
    """It may grow by this share of its level within half a run, or by `least`, whichever is more."""

    share: float
    least: float


@dataclass(frozen=True, slots=True)
class Within:
    """No sample may be less or more than this, however it moves between."""

    least: float
    most: float


Rule = Flat | Within


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How it went."""

    level: float
    """The median of the second quarter."""
    last: float
    """The median of the last quarter."""
    most: float
    """Of all samples that count."""
    may: str
    """What the rule allows."""
    broken: str
    """What it did against the rule; empty: nothing."""


def judge(points: Sequence[Point], rule: Rule) -> Verdict:
    """Judges the samples of a whole run, in the order of time. Raises ValueError when they are too few."""
    began_at, ended_at = points[0][0], points[-1][0]
    quarter_s = (ended_at - began_at) / 4
    counted = [point for point in points if point[0] >= began_at + WARM_UP * 4 * quarter_s]
    second = [value for at, value in counted if at < began_at + 2 * quarter_s]
    fourth = [value for at, value in counted if at >= ended_at - quarter_s]
    if min(len(second), len(fourth)) < FEWEST:
        raise ValueError(f"{len(points)} samples are too few to judge by")
    level, last = statistics.median(second), statistics.median(fourth)
    values = [value for _, value in counted]
    if isinstance(rule, Within):
        may, broken = _bounded(values, rule)
    else:
        may, broken = _grown(level, last, _slope(counted) * 2 * quarter_s, rule)
    return Verdict(level=level, last=last, most=max(values), may=may, broken=broken)


def _bounded(values: Sequence[float], rule: Within) -> tuple[str, str]:
    bound = f"{rule.least:g}" if rule.least == rule.most else f"{rule.least:g} to {rule.most:g}"
    outside = [value for value in values if not rule.least <= value <= rule.most]
    return f"be {bound}", f"was {outside[0]:g}, {len(outside)} times out of {bound}" if outside else ""


def _grown(level: float, last: float, trend: float, rule: Flat) -> tuple[str, str]:
    """`trend`: what the slope makes of half a run."""
    allowed = max(rule.least, rule.share * level)
    grown = min(last - level, trend)
    return f"grow by {allowed:.3g}", f"grew by {grown:.3g} in half a run" if grown > allowed else ""


def _slope(points: Sequence[Point]) -> float:
    """Of Theil and Sen, in units a second."""
    blocks = _put_together(points)
    return statistics.median(
        (value - before) / (at - earlier) for (earlier, before), (at, value) in itertools.combinations(blocks, 2)
    )


def _put_together(points: Sequence[Point]) -> list[Point]:
    """So many neighbours as one point, their medians, that not too many are left."""
    size = -(-len(points) // _POINTS_MAX)
    blocks = [points[first : first + size] for first in range(0, len(points), size)]
    return [
        (statistics.median(at for at, _ in block), statistics.median(value for _, value in block)) for block in blocks
    ]
