"""`run --once --textfile`: what a run counted, written for node_exporter however the run ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric

from worker import clock
from worker.cli.messages import complain
from worker.config import Settings
from worker.database import connection
from worker.errors import DATABASE_FAULTS, CaspenSyncError, ExitCode
from worker.gauges import gauges
from worker.metrics import PREFIX, Metrics
from worker.status import Status, status
from worker.textfile import LOCK_S, add_to

# For how long the gauges of all processes are read, after the run, in seconds; and when its time is up.
READ_S = 5.0
READ_LATE_S = 0.5
# The same for others, who hold the lock for milliseconds.
LOCK_LATE_S = 0.3


class Record:
    """One run's."""

    def __init__(self, file: Path, ends_at: float | None) -> None:
        """`ends_at`: when the run's time is up, by `clock.now()`."""
        self.metrics = Metrics()
        self.settings: Settings | None = None
        """Once they are known."""
        self._file = file
        self._ends_at = ends_at
        self._began_at = clock.now()

    def of(self, work: Callable[[], int]) -> int:
        """The run's exit code; what it raises is raised, once it is written down. What cannot be written is a line on
        stderr and no more."""
        exit_code, in_reach = int(ExitCode.INTERNAL), True
        try:
            exit_code = work()
        except CaspenSyncError as error:
            exit_code, in_reach = int(error.exit_code), not isinstance(error, DATABASE_FAULTS)
            raise
        except KeyboardInterrupt:
            exit_code = 130
            raise
        finally:
            self._write(exit_code, in_reach=in_reach)
        return exit_code

    def _write(self, exit_code: int, *, in_reach: bool) -> None:
        took_s = clock.now() - self._began_at
        found = asyncio.run(self._read(self.settings)) if in_reach and self.settings else None
        families = [*self.metrics.registry.collect(), *gauges(found), *_last_run(exit_code, took_s)]
        try:
            left_s = LOCK_S if self._ends_at is None else self._ends_at - clock.now()
            complaint = add_to(self._file, families, patience_s=min(LOCK_S, max(LOCK_LATE_S, left_s)))
        except OSError as error:
            complaint = f"{self._file}: cannot be written: {error.strerror or type(error).__name__}"
        if complaint:
            complain(f"--textfile {complaint}")

    async def _read(self, settings: Settings) -> Status | None:
        left_s = READ_S if self._ends_at is None else self._ends_at - clock.now()
        try:
            async with asyncio.timeout(min(READ_S, max(READ_LATE_S, left_s))), connection(settings.database) as conn:
                return await status(conn)
        except (CaspenSyncError, TimeoutError):
            return None


def _last_run(exit_code: int, took_s: float) -> Iterator[Metric]:
    for name, help_text, value in (
        ("timestamp_seconds", "When the last run ended, in Unix time.", time.time()),
        ("duration_seconds", "How long the last run took.", took_s),
        ("exit_code", "How the last run ended; 0 is well.", exit_code),
    ):
        yield GaugeMetricFamily(f"{PREFIX}_last_run_{name}", help_text, value=value)
