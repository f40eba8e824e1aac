"""Loading: accepted lines become changes in the outbox, in steps so short that no application notices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from worker import clock
from worker.backfill.staging import taken_over
from worker.database import understood
from worker.errors import DATABASE_FAULTS, DatabaseUnreachable
from worker.patience import ONCE_DATABASE_PATIENCE_S
from worker.sqlfiles import query

# Lines of one step, a transaction of some 40 ms.
STEP = 1000
# A step gives up before an application that waits for it could be ended as the victim of a deadlock, which Postgres
# looks for after a second. One line alone holds no appointment that somebody else could wait for, only the backfill,
# which others want now and then: it waits longer, and then as long again without holding anything.
LOCK_WAIT_MS = 100
STEP_MS = 700
ALONE_WAIT_MS = 500
# After a step that gave up, the next one tries so much less.
SHRINK = 8
# How long Postgres is left alone when it is away, in seconds.
AWAY_S = 0.5
# Services that listen are woken so often at the most, in seconds.
WAKE_EVERY_S = 5.0

# What tells that somebody else holds an appointment.
_HELD = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, asyncpg.DeadlockDetectedError)


@dataclass(slots=True, kw_only=True)
class Loaded:
    """What one loading did."""

    lines: int = 0
    left_out: int = 0
    """Lines from which something was left out for newer changes."""
    outdated: int = 0
    """Those from which everything was."""
    waiting: bool = False
    """Whether a transaction of somebody else holds the next line's appointment."""


class Loader:
    """Moves what a backfill has accepted into the outbox."""

    def __init__(self, pool: asyncpg.Pool, *, name: str, token: UUID, accounts: Sequence[str]) -> None:
        """`token`: the one by which this process took the backfill over."""
        self._pool = pool
        self._name = name
        self._token = token
        self._accounts = accounts
        self._woken_at = -WAKE_EVERY_S

    async def load(self, stopping: asyncio.Event, look_on: Callable[[Loaded], None]) -> Loaded:
        """Loads until all is loaded or `stopping` is set. `look_on` is shown after each step what is loaded so far.

        Raises BackfillTakenOver when another process has, and DatabaseUnreachable when Postgres is away for longer than
        it is waited for; what was loaded by then stays.
        """
        loaded = Loaded()
        try:
            for account in self._accounts:
                await self._load(account, loaded, stopping, look_on)
        finally:
            if loaded.lines:
                with contextlib.suppress(*DATABASE_FAULTS):  # they look by themselves, a little later
                    for account in self._accounts:
                        await self._wake(account)
        return loaded

    async def _load(
        self, account: str, loaded: Loaded, stopping: asyncio.Event, look_on: Callable[[Loaded], None]
    ) -> None:
        size = STEP
        while not stopping.is_set():
            step = await self._patiently(account, size, stopping)
            if step is None:
                loaded.waiting = size == 1
                size = max(1, size // SHRINK)
                look_on(loaded)
                if loaded.waiting:
                    await asyncio.sleep(ALONE_WAIT_MS / 1000)
                continue
            loaded.waiting = False
            loaded.lines += step.lines
            loaded.left_out += step.left_out
            loaded.outdated += step.outdated
            look_on(loaded)
            if step.lines < size:
                return
            size = min(STEP, size * 2)
            if clock.now() - self._woken_at >= WAKE_EVERY_S:
                await self._wake(account)

    async def _patiently(self, account: str, size: int, stopping: asyncio.Event) -> Loaded | None:
        """One step; again while Postgres is away. How far all is stands in the database, so that a step of which
        nobody knows whether it was committed is neither lost nor done twice."""
        away_since: float | None = None
        while True:
            try:
                with understood():
                    return await self._step(account, size)
            except DatabaseUnreachable:
                away_since = away_since or clock.now()
                if stopping.is_set() or clock.now() - away_since > ONCE_DATABASE_PATIENCE_S:
                    raise
                await asyncio.sleep(AWAY_S)

    async def _step(self, account: str, size: int) -> Loaded | None:
        """What it moved; None: somebody holds one of these appointments, and nothing was done."""
        limits = [f"{ALONE_WAIT_MS}ms", "0"] if size == 1 else [f"{LOCK_WAIT_MS}ms", f"{STEP_MS}ms"]
        try:
            async with self._pool.acquire() as conn, conn.transaction():
                await conn.execute(query("backfill_gently"), *limits)
                row = await conn.fetchrow(query("backfill_load"), account, self._name, self._token, size)
                if not row["held"]:
                    raise taken_over(self._name)
                ids = row["ids"] or []
                if not ids:
                    return Loaded()
                left_out = await conn.fetchrow(query("backfill_leave_out"), account, self._name, ids, row["nths"])
        except _HELD:
            return None
        return Loaded(lines=len(ids), left_out=left_out["lines"], outdated=left_out["whole"])

    async def _wake(self, account: str) -> None:
        self._woken_at = clock.now()
        with understood():
            await self._pool.execute(query("wake"), account)
