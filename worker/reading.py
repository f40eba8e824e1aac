"""How it is, for many who ask: scrapes, people who look at a page, the service's status line.

They share each reading, so that what they cost the database has a bound, however many they are and however large the
backlog is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import asyncpg

from worker import clock
from worker.database import CONNECT_TIMEOUT_S, understood
from worker.errors import DATABASE_FAULTS, CaspenSyncError

KEPT_AT_LEAST_S = 1.0
KEPT_AT_MOST_S = 60.0
# A reading is kept for so many times what it took: Postgres spends 2 % of one core on them, at the most.
KEPT_TIMES = 50
# Less than this, in seconds, is cheap whoever asks.
CHEAP_S = 0.01
# What the first readings take, in seconds, tells of the backlog only if it is more than this.
COLD_S = 0.25


class Connections(Protocol):
    """A pool, or what hands out connections as one does."""

    def acquire(self, *, timeout: float) -> contextlib.AbstractAsyncContextManager[asyncpg.Connection]:
        """One of them, within so many seconds."""


class Ageing(Protocol):
    """What can be read: figures that say how old they are."""

    def later(self, seconds: float) -> Self:
        """The same figures, so many seconds later."""


T = TypeVar("T", bound=Ageing)


@dataclass(frozen=True, slots=True)
class _Reading(Generic[T]):
    at: float
    took_s: float
    """As far as it tells how long the next one takes."""
    outcome: T | CaspenSyncError


class SharedReading(Generic[T]):
    """Reads through a pool, over one connection at a time."""

    def __init__(
        self,
        pool: Connections,
        read: Callable[[asyncpg.Connection], Awaitable[T]],
        *,
        kept_at_least_s: float = KEPT_AT_LEAST_S,
        kept_at_most_s: float = KEPT_AT_MOST_S,
        usual_of: int = 5,
        told: Callable[[T], None] | None = None,
        now: Callable[[], float] = clock.now,
    ) -> None:
        """`read`: what is read. `usual_of`: the quickest of so many in a row tells how long the next one takes. `told`:
        hears of each new reading. `now`: seconds since some fixed moment."""
        self._pool = pool
        self._reads = read
        self._kept_at_least_s = kept_at_least_s
        self._kept_at_most_s = kept_at_most_s
        self._told = told
        self._now = now
        self._newest: _Reading[T] | None = None
        self._took_s: deque[float] = deque(maxlen=usual_of)
        self._going_on: asyncio.Task[_Reading[T]] | None = None

    async def get(self, max_age_s: float, *, times: int = KEPT_TIMES) -> T:
        """How it is, as read at most `max_age_s` ago, or longer where reading takes long; `kept_at_most_s` at the most.
        `times`: how often what it took must have passed before this asker has it read again.

        The ages in it, and the times to come, are as of now.
        Raises DatabaseUnreachable, DatabaseRefused or SchemaMissing.
        """
        reading = self._newest
        if reading is None or not self._serves(reading, max_age_s, times):
            reading = await self._read_with_the_others()
        if isinstance(reading.outcome, CaspenSyncError):
            # One of its own for each asker: raising adds to an exception.
            raise type(reading.outcome)(*reading.outcome.args) from reading.outcome.__cause__
        return reading.outcome.later(max(0.0, self._now() - reading.at))

    def forget(self) -> None:
        """What was read is known to be wrong: the next asker has it read anew."""
        self._newest = self._going_on = None

    def _serves(self, reading: _Reading[T], max_age_s: float, times: int) -> bool:
        wanted_s = 0.0 if isinstance(reading.outcome, CaspenSyncError) else max_age_s
        # What takes little takes longer where others are busy, too: no reason to be more sparing with it.
        times = KEPT_TIMES if reading.took_s < CHEAP_S else times
        kept_s = max(wanted_s, self._kept_at_least_s, times * reading.took_s)
        return self._now() - reading.at <= min(self._kept_at_most_s, kept_s)

    async def _read_with_the_others(self) -> _Reading[T]:
        if self._going_on is None or self._going_on.done():
            self._going_on = asyncio.create_task(self._read())
        # An asker that goes away takes nothing from the others.
        return await asyncio.shield(self._going_on)

    async def _read(self) -> _Reading[T]:
        began: float | None = None
        try:
            with understood():
                async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as conn:
                    began = self._now()  # waiting for a connection costs Postgres nothing
                    found = await self._reads(conn)
                    took_s = self._now() - began  # to give a connection back takes a while, and costs nothing
            reading = _Reading(began, self._usual_s(took_s), found)
            if self._told is not None:
                self._told(found)
        except DATABASE_FAULTS as fault:
            # A count that a time limit ended has cost Postgres as much as one that came to its end.
            took_s = 0.0 if began is None else self._now() - began
            reading = _Reading(self._now(), took_s, fault)
        if self._going_on is asyncio.current_task():  # else it began before something was known to be wrong
            self._newest = reading
        return reading

    def _usual_s(self, took_s: float) -> float:
        """One that takes long after one that did not is chance, or else the next ones tell. So it is with the first
        ones, for which a connection reads catalogs and plans. Figures that are quickly read do not stand still for
        that."""
        self._took_s.append(took_s)
        quickest_s = min(self._took_s)
        few = len(self._took_s) < (self._took_s.maxlen or 0)
        return 0.0 if few and quickest_s <= COLD_S else quickest_s
