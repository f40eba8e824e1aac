"""How backlog and age went since this service began, at the most for six hours.

Nothing is read for it: it hears of what is read anyway, for systemd, for scrapes and for those who look at the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from worker.status import Status

# For six hours, these are about a minute apart.
MOST_POINTS = 360
LONGEST = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Point:
    """How it was at one moment."""

    at: datetime
    pending: int
    oldest_s: float


class Trail:
    """The points, evenly spread: one a second at first; whenever there are too many every other one goes."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._points: list[Point] = []
        self._apart = timedelta(seconds=1)

    @property
    def points(self) -> tuple[Point, ...]:
        """Oldest first."""
        return tuple(self._points)

    def add(self, found: Status) -> None:
        """Takes down what was read just now."""
        point = Point(self._now(), *_figures(found))
        points = self._points
        while points and points[-1].at > point.at:  # the clock was put back
            points.pop()
        while points and points[0].at < point.at - LONGEST:
            del points[0]
        # The last point is always the newest; what came too soon after the one before it, it replaces.
        if len(points) > 1 and points[-1].at - points[-2].at < self._apart:
            points.pop()
        points.append(point)
        if len(points) > MOST_POINTS:
            self._apart *= 2
            self._points = points[-1::-2][::-1]


def _figures(found: Status) -> tuple[int, float]:
    pending = sum(one.pending for one in found.accounts) + sum(one.changes for one in found.unregistered)
    ages = [one.oldest_s or 0.0 for one in found.accounts] + [one.oldest_s for one in found.unregistered]
    return pending, max(ages, default=0.0)
