"""What the API says of the budget, held against what we believe: somebody else may use the key, and the limit may be
another than the configured one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from worker.claims import BudgetTold
from worker.config import AccountSettings
from worker.errors import DATABASE_FAULTS
from worker.store import Store
from worker.telemetry import Log

# How often it is looked at, in seconds: a request's answer says what the one before it said, less one.
LOOK_S = 0.25
# Whoever is told that this many remain is held up by nobody.
PLENTY = 1000


class BudgetWatch:
    """Takes in what answers say, and adjusts the slots beside the loop."""

    def __init__(self, store: Store, accounts: Mapping[str, AccountSettings], *, timeout_s: float, log: Log) -> None:
        """`timeout_s`: how long a request may take."""
        self._store = store
        self._configured = {name: account.rate_limit for name, account in accounts.items()}
        self._timeout_s = timeout_s
        self._log = log
        self._limits: dict[str, int] = {}
        self._newest: dict[str, BudgetTold] = {}
        self._heard = asyncio.Event()

    def hear(self, told: BudgetTold) -> None:
        """Takes in what one answer said. Of several, the one whose request began last counts."""
        known = self._newest.get(told.account)
        if known is None or known.started_at <= told.started_at:
            self._newest[told.account] = told
            self._heard.set()

    async def run(self) -> None:
        """Looks, until cancelled. What cannot be written now is written after the next answer."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            newest, self._newest = list(self._newest.values()), {}
            with contextlib.suppress(*DATABASE_FAULTS):
                for told in newest:
                    await self._look_at_limit(told)
                await self._look_at_remaining(newest)
            await asyncio.sleep(LOOK_S)

    async def _look_at_limit(self, told: BudgetTold) -> None:
        if told.limit is None or told.limit == self._limits.get(told.account):
            return
        await self._store.tell_limit(told.account, told.limit, timeout_s=self._timeout_s)
        self._limits[told.account] = told.limit
        configured = self._configured[told.account]
        if told.limit != configured:
            self._log.warning(
                "limit_differs",
                account=told.account,
                configured=configured,
                told=told.limit,
                used=min(configured, told.limit),
            )

    async def _look_at_remaining(self, newest: list[BudgetTold]) -> None:
        scarce = [told for told in newest if told.remaining is not None and told.remaining < PLENTY]
        if scarce:
            for account, slots in (await self._store.hold_back(scarce)).items():
                self._log.warning("budget_shared", account=account, held_back=slots)
