"""The one clock by which leases and slots are judged in this process.

Only differences are ever used; instants come from the database's clock. Where the system has it, the clock runs on
while the machine is suspended: a worker that slept through its lease has to notice.
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since some fixed moment."""
    return time.clock_gettime(_CLOCK)
