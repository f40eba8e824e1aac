"""What processes have used: CPU time and memory, out of /proc by way of psutil.

CPU time is read for a whole process, all of its threads, user and system. Postgres is many processes that come and go:
its time is that of the postmaster, of its children alive, and of those that it has seen end (`children_user`).
The kernel gives it in hundredths of a second.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


def cpu_s(pid: int) -> float:
    """CPU seconds of one process so far; 0 when it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def family_cpu_s(pid: int) -> float:
    """CPU seconds of a process, its children alive, and its children that have ended."""
    parent = psutil.Process(pid)
    while True:
        before = parent.cpu_times()
        alive_s = sum(cpu_s(child.pid) for child in parent.children())
        after = parent.cpu_times()
        if _of_ended_s(after) == _of_ended_s(before):  # or else one that ended meanwhile counts twice, or not at all
            return float(after.user + after.system) + _of_ended_s(after) + alive_s


def _of_ended_s(times: Any) -> float:
    return float(times.children_user + times.children_system)


def peak_mb(pid: int) -> float:
    """The most memory that a process had resident so far, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds so far, of the worker, of Postgres, of the server, and of the whole machine, these among them."""

    worker_s: float
    postgres_s: float
    server_s: float
    machine_s: float

    @classmethod
    def now(cls, worker_pid: int, postmaster_pid: int, server_pid: int) -> Usage:
        return cls(cpu_s(worker_pid), family_cpu_s(postmaster_pid), cpu_s(server_pid), _machine_cpu_s())

    @property
    def others_s(self) -> float:
        """What went on beside it, the benchmark's own waiting included."""
        return self.machine_s - self.worker_s - self.postgres_s - self.server_s

    def since(self, earlier: Usage) -> Usage:
        return Usage(
            self.worker_s - earlier.worker_s,
            self.postgres_s - earlier.postgres_s,
            self.server_s - earlier.server_s,
            self.machine_s - earlier.machine_s,
        )


def _machine_cpu_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)  # guests are in user and nice
