"""How it is: what waits, for what, and who works on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg

from worker.claims import PauseKind
from worker.database import understood
from worker.sqlfiles import query

# A process says that it is alive every ten seconds; one that has not for this long is gone, or stuck.
ALIVE_S = 30.0
# Nobody works these off, so without a bound each look would cost more than the one before.
STRANGERS_COUNTED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    """One account. Counts are of changes, but for `in_flight`, `waiting` and `due`, which are of appointments, and
    those of the budget, which are of requests."""

    account: str
    live: int
    """Pending in the live lane."""
    backfill: int
    oldest_s: float | None
    """Age of the oldest pending change."""
    arrived: int
    """Pending, and not taken into the queue yet."""
    parked: int
    in_flight: int
    waiting: int
    """Backing off or resting."""
    next_due_s: float | None
    """Until the first of those that wait is due."""
    due: int
    """What only budget, a pause or the lack of a worker is in the way of."""
    due_backfill: int
    """Those of them in the backfill lane."""
    budget_limit: int
    """Requests in a window: the lower of what is configured and what the API says."""
    budget_configured: int
    budget_free: int
    held_back: int
    """Slots that nobody uses, since somebody else uses the key."""
    budget_used: int
    """By requests that are on the wire, or were within the window."""
    budget_reserve: int
    """Slots that backfill leaves free."""
    window_s: float
    guard_s: float
    served: bool
    """Whether a worker that is alive works for it. Between two runs of a cron job, none does."""
    pause_kind: PauseKind | None
    pause_reason: str | None
    paused_for_s: float | None
    """Until it ends, or until the next probe; None: until a person says so."""
    paused_at: datetime | None

    @property
    def pending(self) -> int:
        """In both lanes."""
        return self.live + self.backfill

    @property
    def done_in_s(self) -> float | None:
        """How long the budget takes for what is due, at the least; None when it is not the budget that is waited for.

        What has arrived and was not taken in yet, what waits, and what will be written meanwhile comes on top.
        """
        if self.due <= self.budget_free or self.pause_kind is not None or not self.served:
            return None
        slots = max(1, self.budget_limit - self.held_back)
        windows = max(
            (self.due - self.budget_free) / slots,
            (self.due_backfill - self.budget_free) / max(1, slots - self.budget_reserve),
        )
        return windows * (self.window_s + self.guard_s)

    def later(self, seconds: float) -> AccountStatus:
        """The same, so many seconds later: what is old is older, and what is to come is nearer."""
        return replace(
            self,
            oldest_s=None if self.oldest_s is None else self.oldest_s + seconds,
            next_due_s=None if self.next_due_s is None else max(0.0, self.next_due_s - seconds),
            paused_for_s=None if self.paused_for_s is None else max(0.0, self.paused_for_s - seconds),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """An account that has changes and that no configuration has ever named."""

    account: str
    changes: int
    """STRANGERS_COUNTED may be more."""
    oldest_s: float

    def later(self, seconds: float) -> Stranger:
        """The same, so many seconds later."""
        return replace(self, oldest_s=self.oldest_s + seconds)


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
    """All accounts that a worker has ever worked for, those that none has, and the workers."""

    accounts: tuple[AccountStatus, ...]
    unregistered: tuple[Stranger, ...]
    workers: tuple[WorkerStatus, ...]
    age_s: float = 0.0
    """How long ago the figures were read."""

    def later(self, seconds: float) -> Status:
        """The same figures, so many seconds later."""
        return replace(
            self,
            accounts=tuple(one.later(seconds) for one in self.accounts),
            unregistered=tuple(one.later(seconds) for one in self.unregistered),
            age_s=self.age_s + seconds,
        )


async def status(conn: asyncpg.Connection) -> Status:
    """Reads it in three statements."""
    with understood():
        accounts = await conn.fetch(query("status"))
        strangers = await conn.fetch(query("strangers"), STRANGERS_COUNTED)
        workers = [_worker(row) for row in await conn.fetch(query("workers"), ALIVE_S)]
    served = {account for worker in workers for account in worker.accounts}
    return Status(
        accounts=tuple(AccountStatus(**row, served=row["account"] in served) for row in accounts),
        unregistered=tuple(Stranger(**row) for row in strangers),
        workers=tuple(workers),
    )


def _worker(row: Mapping[str, Any]) -> WorkerStatus:
    return WorkerStatus(**(dict(row) | {"accounts": tuple(row["accounts"])}))
