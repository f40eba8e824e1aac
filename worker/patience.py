"""Patience with the database: a service waits for it for ever, one run for a while, and a stop not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from worker.errors import DATABASE_FAULTS, CaspenSyncError, DatabaseUnreachable
from worker.metrics import Metrics
from worker.pulse import Pulse
from worker.telemetry import Log

# How long one run waits for a database that went away under it, in seconds. The service waits for ever.
ONCE_DATABASE_PATIENCE_S = 60.0

P = ParamSpec("P")
R = TypeVar("R")


class Stopped(DatabaseUnreachable):
    """Told to stop while the database was out of reach."""


class Patience:
    """Calls the database, through its absences."""

    def __init__(self, stopping: asyncio.Event, *, pulse: Pulse, metrics: Metrics, log: Log) -> None:
        self._stopping = stopping
        self._pulse = pulse
        self._metrics = metrics
        self._log = log
        # What is waited for. What a person has to mend ends the start, and one run; a service that worked waits on.
        self._passing: tuple[type[CaspenSyncError], ...] = (DatabaseUnreachable,)
        self.longest_s: float | None = None
        """For how long the database is waited for; None: for ever."""

    def has_worked(self) -> None:
        """The database was there, and willing: from now on a service waits whatever it says."""
        if self.longest_s is None:
            self._passing = DATABASE_FAULTS

    async def call(self, call: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the call returns. Raises what it raised last, when patience is over, and Stopped."""
        self._pulse.beat("loop")
        try:
            return await call(*args, **kwargs)
        except self._passing as error:
            failed = [error]

        async def again() -> R:
            """What went wrong the first time, and from then on another call: tenacity is set up only when needed."""
            if failed:
                raise failed.pop()
            return await call(*args, **kwargs)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(self._passing),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=lambda state: self.longest_s is not None and (state.seconds_since_start or 0) >= self.longest_s,
            sleep=self._sleep_unless_stopped,
            before=lambda _: self._pulse.beat("loop"),
            before_sleep=self._complain,
            reraise=True,
        )
        return await retrying(again)

    async def _sleep_unless_stopped(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
                raise Stopped("database: out of reach when told to stop")

    def _complain(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._metrics.database_failed()
        self._log.warning("database_waited_for", attempt=state.attempt_number, error=str(error))
