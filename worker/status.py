"""How it is: what waits, for what, and who works on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from worker.claims import PauseKind
from worker.database import understood
from worker.sqlfiles import query

# A process says that it is alive every ten seconds; one that has not for this long is gone, or stuck.
ALIVE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    """One account. Counts are of changes, but for `in_flight` and `waiting`, which are of appointments."""

    account: str
    live: int
    """Pending in the live lane."""
    backfill: int
    oldest_s: float | None
    """Age of the oldest pending change."""
    parked: int
    in_flight: int
    waiting: int
    """Backing off or resting."""
    budget_limit: int
    """Requests in a window: the lower of what is configured and what the API says."""
    budget_configured: int
    budget_free: int
    window_s: float
    pause_kind: PauseKind | None
    pause_reason: str | None
    paused_for_s: float | None
    """Until it ends, or until the next probe; None: until a person says so."""
    paused_at: datetime | None

    @property
    def pending(self) -> int:
        """In both lanes."""
        return self.live + self.backfill


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One process that is alive."""

    worker: str
    version: str
    started_at: datetime
    seen_at: datetime
    accounts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All accounts that a worker has ever worked for, and the workers."""

    accounts: tuple[AccountStatus, ...]
    workers: tuple[WorkerStatus, ...]


async def status(conn: asyncpg.Connection) -> Status:
    """Reads it in two statements."""
    with understood():
        accounts = await conn.fetch(query("status"))
        workers = await conn.fetch(query("workers"), ALIVE_S)
    return Status(
        accounts=tuple(AccountStatus(**row) for row in accounts),
        workers=tuple(WorkerStatus(**(dict(row) | {"accounts": tuple(row["accounts"])})) for row in workers),
    )
