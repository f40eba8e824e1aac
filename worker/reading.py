"""How it is, for many who ask: scrapes, people who look at a page, the service's status line.

They share one reading, so that what they cost the database has a bound, however many they are and however large the
backlog is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from worker import clock
from worker.database import CONNECT_TIMEOUT_S, understood
from worker.errors import DATABASE_FAULTS, CaspenSyncError
from worker.status import Status, status

KEPT_AT_LEAST_S = 1.0
KEPT_AT_MOST_S = 60.0
# A reading is kept for so many times what it took: Postgres spends 2 % of one core on them, at the most.
KEPT_TIMES = 50


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    kept_s: float
    outcome: Status | CaspenSyncError


class SharedReading:
    """Reads through a pool, over one connection at a time."""

    def __init__(self, pool: asyncpg.Pool, *, now: Callable[[], float] = clock.now) -> None:
        """`now`: seconds since some fixed moment."""
        self._pool = pool
        self._now = now
        self._newest: _Reading | None = None
        self._going_on: asyncio.Task[_Reading] | None = None

    async def get(self, max_age_s: float) -> Status:
        """How it is, as read at most `max_age_s` ago, or longer where reading takes long; a minute at the most.

        The ages in it, and the times to come, are as of now.
        Raises DatabaseUnreachable, DatabaseRefused or SchemaMissing.
        """
        reading = self._newest
        if reading is None or not self._serves(reading, max_age_s):
            reading = await self._read_with_the_others()
        if isinstance(reading.outcome, CaspenSyncError):
            # One of its own for each asker: raising adds to an exception.
            raise type(reading.outcome)(*reading.outcome.args) from reading.outcome.__cause__
        return reading.outcome.later(max(0.0, self._now() - reading.at))

    def _serves(self, reading: _Reading, max_age_s: float) -> bool:
        wanted_s = max_age_s if isinstance(reading.outcome, Status) else 0.0
        return self._now() - reading.at <= min(KEPT_AT_MOST_S, max(wanted_s, reading.kept_s))

    async def _read_with_the_others(self) -> _Reading:
        if self._going_on is None or self._going_on.done():
            self._going_on = asyncio.create_task(self._read())
        # An asker that goes away takes nothing from the others.
        return await asyncio.shield(self._going_on)

    async def _read(self) -> _Reading:
        began: float | None = None
        try:
            with understood():
                async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as conn:
                    began = self._now()  # waiting for a connection costs Postgres nothing
                    found = await status(conn)
            took_s = self._now() - began
            reading = _Reading(began, max(KEPT_AT_LEAST_S, KEPT_TIMES * took_s), found)
        except DATABASE_FAULTS as fault:
            # A count that a time limit ended has cost Postgres as much as one that came to its end.
            took_s = 0.0 if began is None else self._now() - began
            reading = _Reading(self._now(), max(KEPT_AT_LEAST_S, KEPT_TIMES * took_s), fault)
        self._newest = reading
        return reading
