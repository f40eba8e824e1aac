"""`python -m worker`, by clocks that the test shifts while it runs; see `clocks`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.chaos.clocks import FILE, Shifts
from worker import clock


def main() -> None:
    shifts = Shifts(Path(os.environ[FILE]))
    wall, own = time.time, clock.now
    time.time = lambda: wall() + shifts.wall_s
    clock.now = lambda: own() + shifts.slept_s  # before anybody else is imported, and keeps the other one

    from worker.cli import command

    command()


if __name__ == "__main__":
    main()
