"""How it is: what waits, for what, and who works on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    done_in_s: float | None
    """How long the budget takes for what is due, at the least; None when it is not the budget that is waited for.

    What has arrived and was not taken in yet, what waits, and what will be written meanwhile comes on top.
    """

    @property
    def pending(self) -> int:
        """In both lanes."""
        return self.live + self.backfill

    def estimated(self, free_in_s: Sequence[float] | None) -> AccountStatus:
        """The same with `done_in_s`. `free_in_s`: in how many seconds each slot that nobody holds back is free,
        soonest first; None: not known of each."""
        if self.pause_kind is not None or not self.served:
            return replace(self, done_in_s=None)
        done_in_s = self._evenly() if free_in_s is None else self._slot_by_slot(free_in_s)
        return replace(self, done_in_s=done_in_s if done_in_s > 0 else None)

    def _slot_by_slot(self, free_in_s: Sequence[float]) -> float:
        rest_s = self.window_s + self.guard_s
        # A slot on the wire stands at its worst case; it rests from the answer on, which is soon.
        slots = [min(seconds, rest_s) for seconds in free_in_s] or [rest_s]
        beyond_reserve = slots[self.budget_reserve :] or slots[-1:]
        return max(_sent_in(self.due, slots, rest_s), _sent_in(self.due_backfill, beyond_reserve, rest_s))

    def _evenly(self) -> float:
        slots = max(1, self.budget_limit - self.held_back)
        windows = max(
            (self.due - self.budget_free) / slots,
            (self.due_backfill - self.budget_free) / max(1, slots - self.budget_reserve),
        )
        return windows * (self.window_s + self.guard_s)

    def later(self, seconds: float) -> AccountStatus:
        """The same, so many seconds later: what is old is older, and what is to come is nearer."""
        if self.oldest_s is self.next_due_s is self.paused_for_s is self.done_in_s is None:
            return self  # of a thousand accounts most are idle
        return replace(
            self,
            oldest_s=None if self.oldest_s is None else self.oldest_s + seconds,
            next_due_s=None if self.next_due_s is None else max(0.0, self.next_due_s - seconds),
            paused_for_s=None if self.paused_for_s is None else max(0.0, self.paused_for_s - seconds),
            done_in_s=None if self.done_in_s is None else max(0.0, self.done_in_s - seconds),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """An account that has changes and that no worker has ever taken up: new, or named by no configuration."""

    account: str
    changes: int
    """STRANGERS_COUNTED may be more."""
    oldest_s: float

    @property
    def uncounted(self) -> bool:
        """Whether there may be more changes than `changes`."""
        return self.changes >= STRANGERS_COUNTED

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

    def seen_again(self, seen: Glance) -> Status:
        """The same counts with budgets, pauses and workers as they were seen since."""
        return replace(self, accounts=tuple(_seen_again(one, seen) for one in self.accounts), workers=seen.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """The part of it that costs next to nothing: budgets, pauses and workers."""

    accounts: Mapping[str, Mapping[str, Any]]
    """Of each account, those of an AccountStatus's figures that were read."""
    workers: tuple[WorkerStatus, ...]
    served: frozenset[str]
    """The accounts that these work for."""
    age_s: float = 0.0

    def later(self, seconds: float) -> Glance:
        """The same, so many seconds later."""
        return replace(self, age_s=self.age_s + seconds)


async def glance(conn: asyncpg.Connection) -> Glance:
    """Reads it in two statements."""
    with understood():
        accounts = await conn.fetch(query("glance"))
        workers = tuple(_worker(row) for row in await conn.fetch(query("workers"), ALIVE_S))
    return Glance(
        accounts={row["account"]: dict(row) for row in accounts},
        workers=workers,
        served=frozenset(account for worker in workers for account in worker.accounts),
    )


async def status(conn: asyncpg.Connection) -> Status:
    """Reads it in four statements."""
    seen = await glance(conn)
    with understood():
        accounts = await conn.fetch(query("status"))
        strangers = await conn.fetch(query("strangers"), STRANGERS_COUNTED)
    return Status(
        # One that was registered in between is in the next reading.
        accounts=tuple(_account(row, seen) for row in accounts if row["account"] in seen.accounts),
        unregistered=tuple(Stranger(**row) for row in strangers),
        workers=seen.workers,
    )


def _sent_in(nth: int, slots: Sequence[float], rest_s: float) -> float:
    """When the `nth` request goes out, in seconds: each slot takes one, rests, and takes the next."""
    rounds, place = divmod(max(0, nth - 1), len(slots))
    return slots[place] + rounds * rest_s if nth else 0.0


def _account(row: Mapping[str, Any], seen: Glance) -> AccountStatus:
    figures = dict(row) | dict(seen.accounts[row["account"]])
    free_in_s = figures.pop("free_in_s")
    return AccountStatus(**figures, served=row["account"] in seen.served, done_in_s=None).estimated(free_in_s)


def _seen_again(one: AccountStatus, seen: Glance) -> AccountStatus:
    figures = seen.accounts.get(one.account)
    if figures is None:
        return one
    newer = {name: value for name, value in figures.items() if name != "free_in_s"}
    newer["served"] = one.account in seen.served
    if newer["paused_for_s"] is not None:
        newer["paused_for_s"] = max(0.0, newer["paused_for_s"] - seen.age_s)
    if newer["pause_kind"] is not None or not newer["served"]:
        # It was estimated when the changes were counted; of what is stopped now nobody knows.
        newer["done_in_s"] = None
    # To make another one costs as much as all the rest, and of a thousand accounts most are as they were.
    changed = {name: value for name, value in newer.items() if getattr(one, name) != value}
    return replace(one, **changed) if changed else one


def _worker(row: Mapping[str, Any]) -> WorkerStatus:
    return WorkerStatus(**(dict(row) | {"accounts": tuple(row["accounts"])}))
