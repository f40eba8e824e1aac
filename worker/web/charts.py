"""Shapes for the graphs: coordinates in a box of 600 by 100, which the page stretches. Axes are text beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from worker.lately import Lately
from worker.trail import Point

WIDTH, HEIGHT = 600.0, 100.0

# What an outcome is to whoever looks at bars; the table beside them has each.
Kind = Literal["accepted", "again", "refused"]
KINDS: dict[str, Kind] = {"synced": "accepted", "rejected": "refused", "refused": "refused"}
ORDER: tuple[Kind, ...] = ("accepted", "again", "refused")


@dataclass(frozen=True, slots=True)
class Line:
    """How one figure went."""

    stroke: str
    """The line, as an SVG path."""
    area: str
    """What is under it."""
    most: float
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of one minute's bar."""

    x: float
    y: float
    width: float
    height: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Bars:
    """The requests of each minute."""

    bars: tuple[Bar, ...]
    most: int
    """In one minute."""
    since: datetime


def line(points: Sequence[Point], figure: Callable[[Point], float]) -> Line | None:
    """The figure over time, in steps: it holds until the next reading. None: two points are needed."""
    if len(points) < 2 or (total_s := (points[-1].at - points[0].at).total_seconds()) <= 0:
        return None
    most = max(map(figure, points))

    def height(point: Point) -> str:
        # Not by a factor: rounded, the highest would stand above the box.
        return f"{HEIGHT * (1 - figure(point) / most) if most else HEIGHT:.1f}"

    steps = []
    for point in points:
        x = WIDTH * (point.at - points[0].at).total_seconds() / total_s
        steps.append(f"H{x:.1f}V{height(point)}")
    stroke = f"M0,{height(points[0])}{''.join(steps)}"
    return Line(stroke, f"{stroke}V{HEIGHT:g}H0Z", most, points[0].at, points[-1].at)


def bars(lately: Lately) -> Bars:
    """The last hour's requests, stacked by kind."""
    counts = [_by_kind(minute.requests) for minute in lately.minutes]
    most = max((sum(count.values()) for count in counts), default=0)
    scale, step = (HEIGHT / most if most else 0.0), WIDTH / max(1, len(counts))
    found = []
    for number, count in enumerate(counts):
        y = HEIGHT
        for kind in ORDER:
            if count[kind]:
                height = count[kind] * scale
                y -= height
                found.append(Bar(round(number * step + 1, 1), round(y, 2), round(step - 2, 1), round(height, 2), kind))
    return Bars(tuple(found), most, lately.minutes[0].at)


def kind_of(outcome: str) -> Kind:
    """Whether a request was accepted, refused, or has to be sent again."""
    return KINDS.get(outcome, "again")


def _by_kind(requests: Mapping[str, int]) -> Mapping[Kind, int]:
    counts: Counter[Kind] = Counter()
    for outcome, count in requests.items():
        counts[kind_of(outcome)] += count
    return counts
