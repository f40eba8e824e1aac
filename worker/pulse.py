"""Whether the work goes on: each part of the loop says by when it will be heard of again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

# No part is busy for longer without saying so: one statement of the database, with getting a connection for it before
# (CONNECT_TIMEOUT_S) and giving it back after, takes less than that (STATEMENT_TIMEOUT_S), see `database`.
LONGEST_STEP_S = 60.0


class Pulse:
    """Beats for as long as every part keeps its word. Whoever watches is to run in the same event loop: when that is
    stuck, the watcher is silent, and that is heard."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: by the clock of the event loop's timers, which stands still while the machine sleeps."""
        self._now = now
        self._due: dict[str, float] = {}

    def beat(self, part: str, *, rests_s: float = 0.0) -> None:
        """The part is at work. It will be heard of again within LONGEST_STEP_S after it has rested for `rests_s`."""
        self._due[part] = self._now() + rests_s + LONGEST_STEP_S

    def rest(self, part: str) -> None:
        """The part has nothing to do until somebody wakes it."""
        self._due.pop(part, None)

    @property
    def late(self) -> Sequence[str]:
        """The parts that have not kept their word."""
        now = self._now()
        return sorted(part for part, due in self._due.items() if due < now)
