"""When a backfill will be done, by what its lane really gets of the budget.

    a window's slots - those held back, since somebody else uses the key - the reserve - what live changes use
    ──────────────────────────────────────────────────────────────────────────────────────────────────────────
                                     window + guard + mean answer time

What is in the lane already goes first. What the API will refuse, and how busy tomorrow is, nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from worker.backfill.lane import Lane
from worker.claims import PauseKind
from worker.config import AccountSettings
from worker.database import understood
from worker.sqlfiles import query
from worker.status import ALIVE_S

# What live changes used is looked up for so long, in so many slices, and of so many requests at the most. At 60 a
# minute those are all of them, and take a third of a second.
DAY_S = 86_400.0
SLICES = 288
REQUESTS_LOOKED_AT = 90_000.0
ATTEMPTS_TIMED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountEstimate:
    """For one account."""

    account: str
    requests: int
    ahead: int
    """Requests that go before them: in the lane already, or live."""
    per_minute: float
    """Requests that the lane gets; 0: none."""
    seconds: float | None
    """None: the lane gets nothing, or is paused until a person says so. Any other pause comes on top."""
    measured: bool
    """False: the database was not asked. Then this is as configured, as if nobody else used the budget."""
    budget_limit: int
    window_s: float
    reserve: int
    held_back: int
    live_per_window: float
    """Requests that live changes used, on average."""
    live_looked_back_s: float
    """Over so long; 0: no request was made yet."""
    answer_s: float
    answer_assumed: bool
    """No request was answered yet."""
    pause_kind: PauseKind | None
    pause_reason: str | None
    paused_for_s: float | None
    """None: not paused, or until a person says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """For all accounts, which are worked off beside each other."""

    accounts: tuple[AccountEstimate, ...]
    at: datetime

    @property
    def requests(self) -> int:
        """Of all accounts."""
        return sum(one.requests for one in self.accounts)

    @property
    def ahead(self) -> int:
        """Of all accounts."""
        return sum(one.ahead for one in self.accounts)

    @property
    def seconds(self) -> float | None:
        """Until the last account is done; None: one of them gets nothing."""
        times = [one.seconds for one in self.accounts]
        return None if None in times else max((time for time in times if time is not None), default=0.0)

    @property
    def done_at(self) -> datetime | None:
        """By this host's clock."""
        seconds = self.seconds
        # Beyond a hundred years a date says nothing, and datetime ends at some point.
        return None if seconds is None else self.at + timedelta(seconds=min(seconds, 100 * 365 * DAY_S))


async def estimate(
    pool: asyncpg.Pool, requests: Mapping[str, int], accounts: Mapping[str, AccountSettings], *, queued: bool = False
) -> Estimate:
    """For so many requests of each account. `queued`: they are in the lane already. Raises what a database does."""
    lanes = await _lanes(pool, {name: accounts[name] for name in sorted(requests)})
    return Estimate(
        accounts=tuple(_for_account(name, requests[name], lane, queued=queued) for name, lane in lanes.items()),
        at=datetime.now(UTC),
    )


def unmeasured(requests: Mapping[str, int], accounts: Mapping[str, AccountSettings]) -> Estimate:
    """The same by the configuration alone: nobody else uses the budget, and nothing is in the lane."""
    return Estimate(
        accounts=tuple(
            _for_account(name, requests[name], Lane.configured(accounts[name]), queued=False)
            for name in sorted(requests)
        ),
        at=datetime.now(UTC),
    )


async def _lanes(pool: asyncpg.Pool, accounts: Mapping[str, AccountSettings]) -> dict[str, Lane]:
    lanes = {}
    with understood():
        rows = await pool.fetch(query("backfill_lane"), list(accounts), ATTEMPTS_TIMED, ALIVE_S)
        for row in rows:
            settings = accounts[row["account"]]
            per_second = settings.rate_limit / settings.rate_window_s
            live = await pool.fetchrow(
                query("backfill_live_use"), row["account"], DAY_S, SLICES, REQUESTS_LOOKED_AT, per_second
            )
            lanes[row["account"]] = Lane.of(settings, row, live)
    return lanes


def _for_account(name: str, requests: int, lane: Lane, *, queued: bool) -> AccountEstimate:
    ahead = lane.before + (max(0, lane.backfill - requests) if queued else lane.backfill)
    return AccountEstimate(
        account=name,
        requests=requests,
        ahead=ahead,
        per_minute=lane.per_minute,
        seconds=_seconds(lane, ahead, requests),
        measured=lane.measured,
        budget_limit=lane.slots,
        window_s=lane.window_s,
        reserve=lane.reserve,
        held_back=lane.held_back,
        live_per_window=round(lane.live, 2),
        live_looked_back_s=lane.looked_back_s,
        answer_s=lane.answer_s,
        answer_assumed=lane.answer_assumed,
        pause_kind=lane.pause_kind,
        pause_reason=lane.pause_reason,
        paused_for_s=lane.paused_for_s,
    )


def _seconds(lane: Lane, ahead: int, requests: int) -> float | None:
    if not requests:
        return 0.0
    return None if lane.pause_kind == "manual" else lane.sent_in_s(ahead + requests)
