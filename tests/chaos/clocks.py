"""A worker's own clocks, to be shifted while it runs: a file of two numbers that it looks at whenever it asks for the
time."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

FILE = "CHAOS_CLOCKS"

_SHIFTS = struct.Struct("dd")


def set_clocks(file: Path, *, wall_s: float = 0.0, slept_s: float = 0.0) -> None:
    """`wall_s`: how far the wall clock is off, either way. `slept_s`: for how long the machine was suspended, which a
    monotonic clock does not tell, and the one that leases are judged by does. It has to pass for everybody else."""
    if not file.exists():
        file.write_bytes(_SHIFTS.pack(wall_s, slept_s))
        return
    with file.open("r+b") as opened:
        opened.write(_SHIFTS.pack(wall_s, slept_s))


class Shifts:
    """The numbers in the file, as they are now."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as opened:
            self._map = mmap.mmap(opened.fileno(), _SHIFTS.size, prot=mmap.PROT_READ)

    @property
    def wall_s(self) -> float:
        return _SHIFTS.unpack_from(self._map)[0]

    @property
    def slept_s(self) -> float:
        return _SHIFTS.unpack_from(self._map)[1]
