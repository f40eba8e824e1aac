"""What was read last, for those who would rather have that than wait."""

from __future__ import annotations

import asyncio
from typing import Generic

from worker import clock
from worker.errors import DATABASE_FAULTS, CaspenSyncError
from worker.reading import KEPT_TIMES, SharedReading, T

# How long an asker waits for a newer reading, in seconds.
LONGEST_S = 2.0


class Newest(Generic[T]):
    """The newest reading. A database that is slow, or has gone dark, holds up nobody for long."""

    def __init__(self, reading: SharedReading[T], *, max_age_s: float, times: int = KEPT_TIMES) -> None:
        """`max_age_s`: how old it may be when it is read anew. `times`: as in `SharedReading.get`."""
        self._reading = reading
        self._max_age_s = max_age_s
        self._times = times
        self._found: tuple[float, T] | None = None
        self._going_on: asyncio.Task[None] | None = None
        self._began_at = 0.0
        self._forgotten = 0
        self.fault: CaspenSyncError | None = None
        """Why the last one failed; None: it did not."""

    @property
    def silent_s(self) -> float:
        """For how long what is being read has been waited for; 0 when nothing is."""
        return 0.0 if self._going_on is None or self._going_on.done() else clock.now() - self._began_at

    async def get(self, *, once_known_s: float = LONGEST_S) -> T | None:
        """How it is as far as is known: the last reading, when the one that goes on takes long; None when it failed,
        or there was none yet. `once_known_s`: what is long where there is a last one."""
        while True:
            if self._going_on is None or self._going_on.done():
                self._going_on = asyncio.create_task(self._read())
                self._began_at = clock.now()
            going_on, forgotten = self._going_on, self._forgotten
            # Counted from its begin: of many askers in an outage, one waits.
            longest_s = LONGEST_S if self._found is None else once_known_s
            await asyncio.wait({going_on}, timeout=max(0.0, self._began_at + longest_s - clock.now()))
            if self._forgotten == forgotten:
                break
        if going_on.done():
            going_on.result()
        if self._found is None:
            return None
        at, found = self._found
        return found.later(clock.now() - at)

    def forget(self) -> None:
        """What was read is known to be wrong: the next asker waits for what is read anew."""
        self._reading.forget()
        self._found = self._going_on = None
        self._forgotten += 1

    async def _read(self) -> None:
        try:
            found = await self._reading.get(self._max_age_s, times=self._times)
        except DATABASE_FAULTS as fault:
            self._take(None, fault)
        else:
            self._take((clock.now(), found), None)

    def _take(self, found: tuple[float, T] | None, fault: CaspenSyncError | None) -> None:
        if self._going_on is asyncio.current_task():  # else it was forgotten before it was there
            self._found, self.fault = found, fault
