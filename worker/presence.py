"""That this process is there, and since when: a row for each account in the table of workers, kept fresh."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from worker import clock
from worker.complaints import Complaints
from worker.errors import DATABASE_FAULTS
from worker.store import Store

HEARTBEAT_S = 10.0
# Nobody waits longer than this for a last good-bye that the database does not take.
FAREWELL_S = 2.0


class Presence:
    """Says that the process is alive, until it ends."""

    def __init__(self, store: Store, accounts: Sequence[str], *, complaints: Complaints) -> None:
        self._store = store
        self._accounts = accounts
        self._complaints = complaints
        self._saying = asyncio.Lock()
        self._ended = False

    async def run(self) -> None:
        """Says so now and then, until it has ended or is cancelled. A database that is away hears of it later."""
        began_at = clock.now()
        while True:
            async with self._saying:
                if self._ended:
                    return
                try:
                    await self._store.heartbeat(self._accounts, running_s=clock.now() - began_at)
                except DATABASE_FAULTS as error:
                    self._complaints.about("heartbeat_failed", None, str(error))
                else:
                    self._complaints.over("heartbeat_failed", None)
            await asyncio.sleep(HEARTBEAT_S)

    async def end(self) -> None:
        """Takes the process off the list, if the database lets it. Not to be called when `run` was cancelled already: a
        heartbeat that was given up half-way may still be written, after the good-bye."""
        self._ended = True
        with contextlib.suppress(*DATABASE_FAULTS, TimeoutError):
            async with asyncio.timeout(FAREWELL_S), self._saying:
                await self._store.farewell(self._accounts)
