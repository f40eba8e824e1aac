"""How long one run may take: `run --once --max-runtime`."""

from __future__ import annotations

from collections.abc import Callable

from worker import clock

# What it takes to write back the last outcomes and to end, in seconds; of a very short run, a quarter.
ENDING_S = 0.5
# What is being written back when the time is up has this much longer, in seconds.
GRACE_S = 0.4
# Nothing is known of the API's answers before the first has come.
FIRST_GUESS_S = 1.0


class Runtime:
    """By when one run has to be over.

    It stops claiming somewhat earlier: by twice the slowest answer so far, so that hardly a request has to be cut off,
    which costs its appointment a rest; but by no more than a request may take, and by a third of the run at most.
    """

    def __init__(self, ends_at: float, *, timeout_s: float, now: Callable[[], float] = clock.now) -> None:
        """`ends_at`: by `clock.now()`. `timeout_s`: how long a request may take."""
        self._now = now
        span_s = max(0.0, ends_at - now())
        self._most_s = min(timeout_s, span_s / 3)
        self._slowest_s = FIRST_GUESS_S
        self._ends_at = ends_at
        self.requests_end_at = ends_at - min(ENDING_S, span_s / 4)
        """When what is on the wire is cut off."""

    def answered(self, after_s: float) -> None:
        """An answer took so long."""
        self._slowest_s = max(self._slowest_s, after_s)

    @property
    def over_in_s(self) -> float:
        """Until all that still goes on is broken off, in seconds."""
        return self._ends_at + GRACE_S - self._now()

    @property
    def claims_for_s(self) -> float:
        """For how much longer there are new claims, in seconds; 0 or less: no more."""
        return self.requests_end_at - min(self._most_s, 2 * self._slowest_s) - self._now()
