"""What the API says of the budget, held against what we believe: somebody else may use the key, and the limit may be
another than the configured one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from worker.claims import BudgetTold
from worker.config import AccountSettings
from worker.errors import DATABASE_FAULTS
from worker.store import Store
from worker.telemetry import Log

# How often it is looked at, in seconds: a request's answer says what the one before it said, less one.
LOOK_S = 0.25
# Whoever is told that this many remain is held up by nobody.
PLENTY = 1000
# As for accounts.NAME.rate_limit. A limit that is higher, or 0, is a mistake.
LIMIT_MAX = 1_000_000


class BudgetWatch:
    """Takes in what answers say, and adjusts the slots: to another limit before anything more is claimed, to somebody
    else's use beside the loop."""

    def __init__(self, store: Store, accounts: Mapping[str, AccountSettings], *, timeout_s: float, log: Log) -> None:
        """`timeout_s`: how long a request may take."""
        self._store = store
        self._configured = {name: account.rate_limit for name, account in accounts.items()}
        self._timeout_s = timeout_s
        self._log = log
        self._limits: dict[str, int] = {}
        self._newest: dict[str, BudgetTold] = {}
        self._news: dict[str, int] = {}
        self._told_at: dict[str, float] = {}
        self._heard = asyncio.Event()

    def hear(self, told: BudgetTold) -> None:
        """Takes in what one answer said. Of several, the one whose request began last counts."""
        if self._told_at.get(told.account, told.started_at) > told.started_at:
            return
        self._told_at[told.account] = told.started_at
        self._newest[told.account] = told
        self._heard.set()
        if told.limit is None or not 1 <= told.limit <= LIMIT_MAX:
            return
        if told.limit != self._limits.get(told.account):
            self._news[told.account] = told.limit
        else:
            self._news.pop(told.account, None)

    async def run(self) -> None:
        """Looks, until cancelled. What cannot be written now is written after the next answer."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            newest, self._newest = list(self._newest.values()), {}
            with contextlib.suppress(*DATABASE_FAULTS):
                await self._look_at_remaining(newest)
            await asyncio.sleep(LOOK_S)

    @property
    def news(self) -> Sequence[str]:
        """The accounts of whose limit something new was heard."""
        return sorted(self._news)

    async def obey_limit(self, account: str) -> None:
        """Writes down what is new of the account's limit. To be called before each claim, which could exceed it
        otherwise.

        Raises what the store raises; then it is new still.
        """
        limit = self._news.get(account)
        if limit is None:
            return  # the API took it back, while this waited for the database
        # Which one is in force is not known until it is written: whatever is heard meanwhile is news.
        self._limits.pop(account, None)
        await self._store.tell_limit(account, limit, timeout_s=self._timeout_s)
        self._limits[account] = limit
        if self._news.get(account) == limit:
            del self._news[account]
        configured = self._configured[account]
        if limit != configured:
            used = min(configured, limit)
            self._log.warning("limit_differs", account=account, configured=configured, told=limit, used=used)

    async def _look_at_remaining(self, newest: list[BudgetTold]) -> None:
        scarce = [
            told
            for told in newest
            # While a new limit is not obeyed yet, slots are taken for free that the API does not grant.
            if told.remaining is not None and told.remaining < PLENTY and told.account not in self._news
        ]
        if scarce:
            for account, slots in (await self._store.hold_back(scarce)).items():
                self._log.warning("budget_shared", account=account, held_back=slots)
