"""How a server may count requests.

The API's documentation describes its throttle in two ways that differ, and servers in the field know more. Each way
is a small class with one method, `check`. Time is handed in, so that tests run in simulated time; it must not run
backwards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Literal, get_args

ThrottleName = Literal["fixed", "rolling", "rolling-strict", "bucket"]
THROTTLE_NAMES: tuple[ThrottleName, ...] = get_args(ThrottleName)

# Unix times are floats good to a quarter of a microsecond; what differs by less than this is the same moment.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Check:
    """What the throttle says of one request."""

    allowed: bool
    remaining: int
    """How many more requests would be allowed right now."""
    reset_at: float
    """From when on a next request would be allowed, if none comes before; in seconds, on the clock of `check`."""
    retry_after_s: float
    """Seconds from the request to `reset_at`; 0 while some remain."""


class Throttle(ABC):
    """Counts the requests of one token.

    `limit` requests in `window_s` seconds. With `whole_seconds` the server looks at its clock in whole seconds, so that
    what it takes for `window_s` is up to a second more or less. Raises ValueError for a limit below 1 or a window
    that is not a positive number.
    """

    def __init__(self, limit: int, window_s: float, *, whole_seconds: bool = False) -> None:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        if not 0 < window_s < math.inf:
            raise ValueError("window_s must be a number above 0")
        self._limit = limit
        self._window_s = window_s
        self._whole_seconds = whole_seconds

    def check(self, now: float) -> Check:
        """Counts one request that came in at `now` (seconds) and says whether it is allowed."""
        at = float(math.floor(now)) if self._whole_seconds else now
        allowed = self._take(at)
        free_at = self._free_at(at)
        if self._whole_seconds:
            free_at = float(math.ceil(free_at - _EPSILON))
        reset_at = max(free_at, now)
        return Check(allowed, self._remaining(), reset_at, reset_at - now)

    @abstractmethod
    def _take(self, at: float) -> bool:
        """Counts a request and says whether it is allowed."""

    @abstractmethod
    def _remaining(self) -> int:
        """How many more would be allowed at the moment of the last `_take`."""

    @abstractmethod
    def _free_at(self, at: float) -> float:
        """From when on a next request would be allowed."""


class Fixed(Throttle):
    """A window opens with the first request and resets `window_s` later."""

    def __init__(self, limit: int, window_s: float, *, whole_seconds: bool = False) -> None:
        super().__init__(limit, window_s, whole_seconds=whole_seconds)
        self._ends_at = -math.inf
        self._used = 0

    def _take(self, at: float) -> bool:
        if self._ends_at <= at:
            self._ends_at = at + self._window_s
            self._used = 0
        if self._used == self._limit:
            return False
        self._used += 1
        return True

    def _remaining(self) -> int:
        return self._limit - self._used

    def _free_at(self, at: float) -> float:
        return at if self._used < self._limit else self._ends_at


class Rolling(Throttle):
    """Each allowed request counts until it is `window_s` old."""

    _refused_counts = False

    def __init__(self, limit: int, window_s: float, *, whole_seconds: bool = False) -> None:
        super().__init__(limit, window_s, whole_seconds=whole_seconds)
        # Whether the next is allowed hangs on the `limit` newest only: older ones would be gone before them.
        self._counted: deque[float] = deque(maxlen=limit)

    def _take(self, at: float) -> bool:
        counted = self._counted
        while counted and counted[0] + self._window_s <= at:
            counted.popleft()
        allowed = len(counted) < self._limit
        if allowed or self._refused_counts:
            counted.append(at)
        return allowed

    def _remaining(self) -> int:
        return self._limit - len(self._counted)

    def _free_at(self, at: float) -> float:
        return at if len(self._counted) < self._limit else self._counted[0] + self._window_s


class RollingStrict(Rolling):
    """Like Rolling, but refused requests count too: whoever keeps knocking is never let in."""

    _refused_counts = True


class TokenBucket(Throttle):
    """A full bucket holds `limit` requests and refills at `limit / window_s` a second."""

    def __init__(self, limit: int, window_s: float, *, whole_seconds: bool = False) -> None:
        super().__init__(limit, window_s, whole_seconds=whole_seconds)
        self._level = float(limit)
        self._level_at = math.inf

    def _take(self, at: float) -> bool:
        refill = max(0.0, at - self._level_at) * self._limit / self._window_s
        self._level = min(float(self._limit), self._level + refill)
        self._level_at = at
        if self._level < 1 - _EPSILON:
            return False
        self._level = max(0.0, self._level - 1)
        return True

    def _remaining(self) -> int:
        return math.floor(self._level + _EPSILON)

    def _free_at(self, at: float) -> float:
        return at + max(0.0, 1 - self._level) * self._window_s / self._limit


_KINDS: dict[ThrottleName, type[Throttle]] = {
    "fixed": Fixed,
    "rolling": Rolling,
    "rolling-strict": RollingStrict,
    "bucket": TokenBucket,
}


def make_throttle(name: ThrottleName, *, limit: int, window_s: float, whole_seconds: bool = False) -> Throttle:
    """A fresh throttle by its name; ValueError, naming the choices, for an unknown one."""
    if name not in _KINDS:
        raise ValueError(f"throttle must be one of {', '.join(THROTTLE_NAMES)}")
    return _KINDS[name](limit, window_s, whole_seconds=whole_seconds)
