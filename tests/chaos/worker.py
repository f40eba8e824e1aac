"""`python -m worker`, by clocks that the test shifts while it runs; see `clocks`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.chaos.clocks import FILE, Shifts


def main() -> None:
    shifts = Shifts(Path(os.environ[FILE]))
    wall, monotonic = time.time, time.monotonic
    # Before anybody else is imported, and keeps the other ones.
    time.time = lambda: wall() + shifts.wall_s
    time.monotonic = lambda: monotonic() - shifts.slept_s

    from worker.cli import command

    command()


if __name__ == "__main__":
    main()
