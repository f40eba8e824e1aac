"""Intake: from what was committed to claims.

What arrived is taken in, what is due is claimed as far as there is room on the wire, and then it is found out when
there will be more.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from worker import clock, times
from worker.agenda import Agenda
from worker.claims import Claim
from worker.config import Settings
from worker.metrics import Metrics
from worker.patience import Patience
from worker.store import MAX_ARRIVALS_PER_LANE, MAX_CHANGES_PER_CLAIM, Outlook, Store
from worker.telemetry import Log
from worker.wire import CLAIMS_AT_ONCE, Wire

# Where nobody says that something arrived, it is looked for this often while there is work, in seconds.
UNHEARD_S = 0.25


class Intake:
    """Asks the database, as the agenda says. Methods raise what the store raises when patience is over, and Stopped."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        agenda: Agenda,
        wire: Wire,
        start: Callable[[Sequence[Claim]], Awaitable[None]],
        stopping: asyncio.Event,
        patience: Patience,
        metrics: Metrics,
        log: Log,
    ) -> None:
        """`start` puts claims on their way to the API."""
        self._settings = settings
        self._store = store
        self._agenda = agenda
        self._wire = wire
        self._start = start
        self._stopping = stopping
        self._patiently = patience.call
        self._metrics = metrics
        self._log = log
        self._accounts = sorted(settings.accounts)
        self._lease_s = times.lease_s(settings.api.timeout_s)
        self._max_changes = MAX_CHANGES_PER_CLAIM if settings.worker.coalesce else 1
        self._took_in_at = self._looked_at = -math.inf
        self.listens = False
        """Whether somebody says when something arrives."""

    @property
    def looks_again_at(self) -> float:
        """When all accounts are looked at again, whatever is known of them, by `clock.now()`."""
        return self._looked_at + self._settings.worker.poll_s

    async def register(self) -> None:
        """Writes down the accounts of the settings, as far as that is not done."""
        accounts = self._settings.accounts
        known = await self._patiently(self._store.registered, accounts)
        for account in sorted(accounts.keys() - known):
            await self._patiently(
                self._store.register, {account: accounts[account]}, timeout_s=self._settings.api.timeout_s
            )

    async def look_out(self, accounts: Sequence[str], *, in_vain: Collection[str] = ()) -> Sequence[Outlook]:
        """What these accounts wait for. `in_vain`: those for which a claim has just found nothing."""
        outlooks = await self._patiently(self._store.outlook, accounts)
        if len(outlooks) != len(accounts):
            # Not the database that this began with: it was made anew, or restored from before our time.
            await self.register()
            self._log.warning("accounts_registered_again")
            outlooks = await self._patiently(self._store.outlook, accounts)
        self._agenda.read(outlooks, clock.now(), in_vain=in_vain)
        return outlooks

    async def round(self) -> None:
        """Does all of this once. After a stop nothing is claimed."""
        await self._claim_lone_arrival()
        await self._take_in()
        if self._stopping.is_set():
            return
        wanted = self._wire.shares(self._agenda.ready(clock.now()), most=CLAIMS_AT_ONCE)
        got = await self._patiently(self._claim, wanted) if wanted else Counter[str]()
        short = {account for account, most in wanted.items() if got[account] < most}
        unsure = short | self._agenda.take_unread()
        if clock.now() >= self.looks_again_at:
            self._looked_at = clock.now()
            unsure.update(self._accounts)
        if unsure:
            await self.look_out(sorted(unsure), in_vain=short - got.keys())

    async def _claim_lone_arrival(self) -> None:
        """A change that comes to an account where nothing else waits goes out after one statement instead of two. Where
        that cannot be, it goes the usual way."""
        account = self._agenda.take_lone_arrival()
        if account is None or self._stopping.is_set():
            return
        if not self._wire.has_room(account) or not await self._patiently(self._claim_arrival, account):
            self._agenda.arrived([account])

    async def _claim_arrival(self, account: str) -> bool:
        """Whether a change of this account could be taken in and claimed at once."""
        began_at = clock.now()
        got = await self._store.claim_arrival(
            account, timeout_s=self._settings.api.timeout_s, lease_s=self._lease_s, max_changes=self._max_changes
        )
        if got is None:
            return False
        claim, more = got
        if more:
            self._agenda.arrived([account])
        await self._claimed([claim], clock.now() - began_at)
        return True

    async def _take_in(self) -> None:
        """Takes in what arrived for the accounts of which somebody said so, and, now and then, for all."""
        told = self._agenda.take_arrived()
        accounts = self._accounts
        if clock.now() - self._took_in_at >= (self._settings.worker.poll_s if self.listens else UNHEARD_S):
            self._took_in_at = clock.now()
        elif not (accounts := sorted(told)):
            return
        taken = await self._patiently(self._store.take_in, accounts)
        for account in taken:
            self._agenda.due(account, clock.now())
        self._agenda.arrived(account for account, changes in taken.items() if changes >= MAX_ARRIVALS_PER_LANE)
        for account in told - taken.keys():
            self._agenda.unread(account)  # others took it in, or something was done by hand

    async def _claim(self, wanted: Mapping[str, int]) -> Counter[str]:
        """Claims what is due. Returns how many claims each account got."""
        began_at = clock.now()
        claims = await self._store.claim(
            wanted,
            timeout_s=self._settings.api.timeout_s,
            lease_s=self._lease_s,
            max_changes=self._max_changes,
        )
        for account in wanted:
            self._agenda.asked(account, clock.now())
        await self._claimed(claims, clock.now() - began_at)
        return Counter(claim.account for claim in claims)

    async def _claimed(self, claims: Sequence[Claim], took_s: float) -> None:
        self._metrics.claimed(took_s)
        self._wire.claimed_within(took_s)
        await self._start(claims)
