"""How far a backfill is, for who waits: counted now and then, and told on between the counts by the requests made."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from worker import clock, times
from worker.backfill.registry import Backfill, backfills
from worker.config import Settings
from worker.database import understood
from worker.errors import DATABASE_FAULTS
from worker.sqlfiles import query
from worker.store import Outlook, Store

# In seconds. A count is kept for so many times what it took, so that Postgres spends 3 % of one core on them at most.
COUNTED_EVERY_S = 1.0
COUNTED_AT_LAST_S = 60.0
COUNT_KEPT_TIMES = 30
# How often the requests since are looked at, and by how much less often where that takes long.
LOOK_EVERY_S = 0.5
LOOK_AT_LAST_S = 10.0
LOOKS_APART_TIMES = 20
# The rate is that of the last minutes. It is measured over whole windows, since a budget goes out in bursts: over a
# window and a bit, it could seem to be twice what it is.
MEASURED_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountProgress:
    """One account of a backfill."""

    account: str
    pending: int
    """Changes of the backfill."""
    outlook: Outlook
    budget: int
    """Requests in a window."""
    used: int
    """Of those, by requests on the wire or within the last window."""
    reserve: int
    """Of those, kept for live changes."""
    held_back: int
    """Of those, left to somebody else who uses the key."""
    changes_a_minute: float | None
    """None: not measured yet, which takes a whole window."""
    requests_a_minute: float | None
    """Of the backfill lane."""
    done_in_s: float | None
    """At that rate, with all that waits in the lane; None: there is no rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a backfill is. Counts are of changes."""

    name: str
    changes: int
    """Those that were loaded."""
    pending: int
    parked: int
    accounts: tuple[AccountProgress, ...]
    discarded: int = 0
    """Those that a person gave up."""
    backing_off: bool = False
    """Whether changes rest, none is due, and no request is on the wire, of whatever process."""
    stopping: bool = False
    """Whether only requests on the wire are waited for."""
    fault: str | None = None
    """Why this is not news: the database is out of reach."""

    @property
    def done(self) -> int:
        """How many are not pending any more."""
        return self.changes - self.pending

    @property
    def changes_a_minute(self) -> float | None:
        """Of all accounts whose rate is known; None: of none."""
        rates = [one.changes_a_minute for one in self.accounts if one.changes_a_minute is not None]
        return sum(rates) if rates else None

    @property
    def requests_a_minute(self) -> float | None:
        """As `changes_a_minute`."""
        rates = [one.requests_a_minute for one in self.accounts if one.requests_a_minute is not None]
        return sum(rates) if rates else None

    @property
    def done_in_s(self) -> float | None:
        """When the last of the accounts is; None while that is not known of each."""
        waits = [one.done_in_s for one in self.accounts if one.pending]
        return max((seconds for seconds in waits if seconds is not None), default=None) if None not in waits else None


@dataclass(frozen=True, slots=True)
class _Count:
    began: float
    counted_at: datetime
    """By the database's clock."""
    found: Mapping[str, Backfill]
    lane: Mapping[str, int]
    """Requests that each account's backfill lane has before it."""


class Gauge:
    """Reads how far a backfill is."""

    def __init__(self, connections: asyncpg.Pool, store: Store, settings: Settings, name: str) -> None:
        """`settings`: those of the backfill's accounts alone."""
        self._connections = connections
        self._store = store
        self._name = name
        self._accounts = sorted(settings.accounts)
        self._rest_s = {name: a.rate_window_s + a.rate_guard_s for name, a in settings.accounts.items()}
        self._lease_s = times.lease_s(settings.api.timeout_s)
        self._began = clock.now()
        self._counted: _Count | None = None
        self._count_again_at = self._began
        self.rest_s = LOOK_EVERY_S
        """For how long the last look is good enough."""

    async def look(self) -> Progress:
        """How far it is. Nothing is pending any more when a count has said so. Raises what the store raises."""
        count = self._counted or await self._count()
        if clock.now() >= self._count_again_at:
            # One count too many for a busy server is no loss; if it is more than that, the next statement says so.
            with contextlib.suppress(*DATABASE_FAULTS):
                count = await self._count()
        progress = await self._since(count)
        if progress.pending or not any(one.pending for one in count.found.values()):
            return progress
        return await self._since(await self._count())

    @property
    def found(self) -> tuple[Backfill, ...]:
        """What the last count said of each account."""
        return tuple(self._counted.found.values()) if self._counted else ()

    async def _count(self) -> _Count:
        began = clock.now()
        try:
            with understood():
                lane = await self._connections.fetch(query("backfill_requests"), self._accounts)
            found = {one.account: one for one in await backfills(self._connections, self._name)}
        finally:
            took_s = clock.now() - began
            self._count_again_at = began + min(COUNTED_AT_LAST_S, max(COUNTED_EVERY_S, COUNT_KEPT_TIMES * took_s))
        self._counted = _Count(
            began=began,
            counted_at=lane[0]["counted_at"],
            found={name: found[name] for name in self._accounts if name in found},
            lane={row["account"]: row["requests"] for row in lane},
        )
        return self._counted

    async def _since(self, count: _Count) -> Progress:
        began = clock.now()
        measured_s = {account: self._measured_s(account) for account in self._accounts}
        with understood():
            rows = await self._connections.fetch(
                query("backfill_pace"),
                self._accounts,
                list(measured_s.values()),
                self._name,
                count.counted_at,
                self._lease_s,
            )
        self.rest_s = min(LOOK_AT_LAST_S, max(LOOK_EVERY_S, LOOKS_APART_TIMES * (clock.now() - began)))
        left = await self._store.left_over(self._accounts, lease_s=self._lease_s)
        outlooks = {outlook.account: outlook for outlook in await self._store.outlook(self._accounts)}
        paces = {row["account"]: row for row in rows if row["account"] in count.found and row["account"] in outlooks}
        return Progress(
            name=self._name,
            changes=sum(one.loaded for one in count.found.values()),
            pending=sum(_pending(count.found[name], pace) for name, pace in paces.items()),
            parked=sum(count.found[name].parked + pace["parked"] for name, pace in paces.items()),
            discarded=sum(one.discarded for one in count.found.values()),
            # An outlook cannot tell a rest from a lease, and may be newer: what was just claimed seems to be due later.
            backing_off=left.waiting and not left.due and left.leased_for_s is None,
            accounts=tuple(
                _account(count, pace, outlooks[name], measured_s=measured_s[name]) for name, pace in paces.items()
            ),
        )

    def _measured_s(self, account: str) -> float:
        """Over how many seconds the account's rate can be measured; 0: not yet."""
        rest_s = self._rest_s[account]
        return min(clock.now() - self._began, max(MEASURED_S, rest_s)) // rest_s * rest_s


def _pending(found: Backfill, pace: Mapping[str, Any]) -> int:
    return max(0, found.pending - int(pace["settled"]))


def _account(count: _Count, pace: Mapping[str, Any], outlook: Outlook, *, measured_s: float) -> AccountProgress:
    account = outlook.account
    changes_a_minute = pace["changes"] * 60 / measured_s if measured_s else None
    requests_a_minute = pace["requests"] * 60 / measured_s if measured_s else None
    done_in_s = None
    if requests_a_minute and outlook.pause_kind in (None, "throttled"):
        done_in_s = max(0.0, count.lane[account] * 60 / requests_a_minute - (clock.now() - count.began))
    return AccountProgress(
        account=account,
        pending=_pending(count.found[account], pace),
        outlook=outlook,
        budget=pace["budget"],
        used=pace["used"],
        reserve=pace["reserve"],
        held_back=pace["held_back"],
        changes_a_minute=changes_a_minute,
        requests_a_minute=requests_a_minute,
        done_in_s=done_in_s,
    )
