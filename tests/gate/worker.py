"""`python -m worker` as the gate runs it: by a clock that stands still, under a name that is as long on every machine
(it is written into rows, and so into the WAL), and in asyncio's own event loop."""

from __future__ import annotations

import os
import signal
import socket
import sys

from worker import clock

CLOCK_RUNS = "GATE_CLOCK_RUNS"

STEP_S = 1.0
LENGTH = 24  # of host and process id together


class StandingClock:
    """Moves on whenever the process does, after it was stopped."""

    def __init__(self) -> None:
        self._now = 1000.0
        signal.signal(signal.SIGCONT, self._move_on)

    def now(self) -> float:
        return self._now

    def _move_on(self, *_: object) -> None:
        self._now += STEP_S


def main() -> int:
    if not os.environ.get(CLOCK_RUNS):
        clock.now = StandingClock().now  # before anybody else is imported, and keeps the other one
    socket.gethostname = lambda: "gate".ljust(LENGTH - len(str(os.getpid())), "-")
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # as where it is not installed

    from worker.cli import main as caspen_sync

    return caspen_sync()


if __name__ == "__main__":
    sys.exit(main())
