"""The loop behind every mode: claim, send, write back.

    take in ─▶ claim ─▶ send (one task each) ─▶ write back (batches)
       ▲                                            │
       └──────────── wake: a change, a free slot ───┘

Claims are bounded by what the account may have on the wire; nothing is claimed that would wait for budget.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from worker import clock, times
from worker.budget import BudgetWatch
from worker.caspen import Caspen
from worker.claims import Claim, Settlement
from worker.complaints import Complaints
from worker.config import Settings
from worker.errors import DATABASE_FAULTS, ConfigError, ExitCode, first_of
from worker.metrics import Metrics
from worker.patience import Patience, Stopped
from worker.pulse import Pulse
from worker.report import Report, verdict
from worker.runtime import Runtime
from worker.sender import Sender
from worker.store import MAX_CHANGES_PER_CLAIM, LeftOver, Outlook, Store
from worker.telemetry import Log
from worker.token import TokenSource
from worker.writeback import Tally, WriteBack

HEARTBEAT_S = 10.0
# Nobody waits longer than this for a last good-bye that the database does not take.
FAREWELL_S = 2.0

# A claim that found nothing although something is due met rows that another worker is just claiming: ask again soon,
# and less and less soon, should something else hold those rows.
CONTENDED_MIN_S = 0.005
CONTENDED_MAX_S = 1.0

# How often one run looks whether others are done with what they hold.
LEASE_WATCH_S = 0.25

# How long one run waits for a database that went away under it, in seconds. The service waits for ever.
ONCE_DATABASE_PATIENCE_S = 60.0


class Engine:
    """Works the accounts of the settings off, until told to stop or, in one run, until nothing pending is due."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        caspen: Caspen,
        tokens: Mapping[str, TokenSource],
        *,
        log: Log,
        metrics: Metrics | None = None,
        runtime: Runtime | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """`runtime`: how long one run may take; None: as long as it does."""
        self._settings = settings
        self._store = store
        self._tokens = tokens
        self._log = log
        self._accounts = sorted(settings.accounts)
        self._lease_s = times.lease_s(settings.api.timeout_s)
        self._max_changes = MAX_CHANGES_PER_CLAIM if settings.worker.coalesce else 1
        self._on_the_wire: Counter[str] = Counter()
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._contended_s = CONTENDED_MIN_S
        self._progress_at = clock.now()
        self._runtime = runtime
        self._tried_tokens: dict[str, str] = {}
        self._complaints = Complaints(log)
        self._parts = asyncio.TaskGroup()
        self._metrics = metrics or Metrics()
        self._metrics.begin(self._accounts)
        self.pulse = Pulse()
        self._patience = Patience(self._stopping, pulse=self.pulse, metrics=self._metrics, log=log)
        self._patiently = self._patience.call
        self.ready = asyncio.Event()
        """Set once the accounts are registered and the work begins."""
        self.tally = Tally()
        self._sender = Sender(
            settings,
            store,
            caspen,
            tokens,
            stopping=self._stopping,
            runtime=runtime,
            chance=chance or random.Random(),  # noqa: S311  jitter is no secret
            log=log,
        )
        self._budget = BudgetWatch(store, settings.accounts, timeout_s=settings.api.timeout_s, log=log)
        self._writer = WriteBack(
            store,
            rest_s={name: a.rate_window_s + a.rate_guard_s for name, a in settings.accounts.items()},
            settled=self._settled,
            give_up=self._gives_up,
            tally=self.tally,
            metrics=self._metrics,
            pulse=self.pulse,
            log=log,
        )

    def stop(self) -> None:
        """Lets requests in flight finish and gives the rest back; `run` then returns."""
        self._stopping.set()
        self._woken.set()

    def wake(self) -> None:
        """Says that there may be something to do."""
        self._woken.set()

    def reread_tokens(self) -> None:
        """Reads every token again, changed or not. A refused account then tries another one at once."""
        self._read_tokens(force=True)
        self.wake()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    @property
    def on_the_wire(self) -> int:
        """How many claims this process holds: what it is sending or writing back."""
        return self._on_the_wire.total()

    async def run_service(self) -> Report:
        """Works until stopped, through any fault of the database."""
        with contextlib.suppress(Stopped):
            await self._working(self._serve_until_stopped)
        return Report(exit_code=ExitCode.OK, tally=self.tally)

    async def run_once(self) -> Report:
        """Works until nothing pending is due, or the time is up."""
        self._patience.longest_s = ONCE_DATABASE_PATIENCE_S
        report: list[Report] = []

        async def until_drained() -> None:
            try:
                outlooks, left = await self._work_until_nothing_is_due()
                report.append(verdict(outlooks, left, self.tally, self._settings.api.base_url))
            except Stopped:
                # What is on the wire is still answered, and written back if the database returns in time.
                await self._all_settled()
                reason = "told to stop while the database was out of reach"
                report.append(Report(exit_code=ExitCode.WORK_LEFT, tally=self.tally, reason=reason))
            except DATABASE_FAULTS:
                # The same, and then it ends as it would have: what the API accepted is not left to the lease.
                self.stop()
                await self._all_settled()
                raise

        await self._working(until_drained)
        return report[0]

    async def _working(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Runs the loop and what it needs beside it. When one part dies, all end, and its error is raised."""
        started_at = clock.now()
        try:
            async with self._parts as parts:
                await self._register()
                self._patience.has_worked()
                self.ready.set()
                heart = parts.create_task(self._heartbeats(started_at))
                watch = parts.create_task(self._budget.run())
                writer = parts.create_task(self._writer.run())
                await loop()
                await self._all_settled()
                self._writer.close()
                await writer
                watch.cancel()
                heart.cancel()
        except BaseExceptionGroup as group:
            raise first_of(group) from group
        with contextlib.suppress(*DATABASE_FAULTS, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._store.farewell(self._accounts)

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def _serve_until_stopped(self) -> None:
        with contextlib.suppress(Stopped):
            while not self._stopping.is_set():
                if not await self._claim_and_send():
                    outlooks = await self._look_out()
                    await self._sleep(self._pause_before_next(outlooks))

    async def _work_until_nothing_is_due(self) -> tuple[Sequence[Outlook], LeftOver]:
        """Returns what the accounts wait for and what is left, once it is nothing that this run waits for too."""
        leases_end_at: float | None = None
        while not self._stopping.is_set():
            if self._runtime and self._runtime.claims_for_s <= 0:
                self.stop()
                break
            if await self._claim_and_send():
                continue
            busy = +self._on_the_wire  # before the outlook: what is settled after it may make more due
            outlooks = await self._look_out()
            if busy or any(self._worth_waiting_for(outlook) for outlook in outlooks):
                await self._sleep(self._pause_before_next(outlooks))
                continue
            left = await self._patiently(self._store.left_over, self._accounts, lease_s=self._lease_s)
            if left.due and not any(outlook.due for outlook in outlooks):
                continue  # it came in between
            # Others may hold the rest. If they die, it is this run that finishes their work, so it waits for the
            # leases that were out when it found itself idle; those that come later are not its business.
            if left.leased_for_s is None or (leases_end_at is not None and clock.now() > leases_end_at):
                return outlooks, left
            if leases_end_at is None:
                leases_end_at = clock.now() + left.leased_for_s
            await self._sleep(min(LEASE_WATCH_S, self._settings.worker.poll_s))
        await self._all_settled()
        return await self._store.outlook(self._accounts), await self._store.left_over(
            self._accounts, lease_s=self._lease_s
        )

    async def _register(self) -> None:
        for account, settings in sorted(self._settings.accounts.items()):
            await self._patiently(self._store.register, {account: settings}, timeout_s=self._settings.api.timeout_s)

    async def _look_out(self) -> Sequence[Outlook]:
        """What the accounts wait for."""
        outlooks = await self._patiently(self._store.outlook, self._accounts)
        if len(outlooks) == len(self._accounts):
            return outlooks
        # Not the database that this began with: it was made anew, or restored from before our time.
        await self._register()
        self._log.warning("accounts_registered_again")
        return await self._patiently(self._store.outlook, self._accounts)

    async def _claim_and_send(self) -> bool:
        """Takes in what arrived, claims what it may and starts sending. True when there may be more to do at once."""
        self._woken.clear()
        await self._refresh_tokens()
        for account in self._budget.news:
            await self._patiently(self._budget.obey_limit, account)
        taken = await self._patiently(self._store.take_in, self._accounts)
        capacities = self._capacities()
        if not capacities or self._stopping.is_set():
            return False
        claims = await self._patiently(self._claim, capacities)
        for claim in claims:
            self._count_on_the_wire(claim.account, 1)
            self._parts.create_task(self._send(claim))
        if claims:
            self._contended_s = CONTENDED_MIN_S
        return bool(claims or taken)

    async def _claim(self, capacities: Mapping[str, int]) -> list[Claim]:
        began_at = clock.now()
        claims = await self._store.claim(
            capacities,
            timeout_s=self._settings.api.timeout_s,
            lease_s=self._lease_s,
            max_changes=self._max_changes,
        )
        self._metrics.claimed(clock.now() - began_at)
        return claims

    async def _send(self, claim: Claim) -> None:
        self._writer.put(await self._sender.serve(claim))

    def _settled(self, batch: Sequence[Settlement]) -> None:
        for settlement in batch:
            self._count_on_the_wire(settlement.claim.account, -1)
            if self._runtime:
                self._runtime.answered(max((attempt.duration_s for attempt in settlement.attempts), default=0.0))
            if settlement.told:
                self._budget.hear(settlement.told)
            if settlement.pause and settlement.pause.kind == "refused":
                self._tried_tokens.pop(settlement.claim.account, None)  # it may have been replaced meanwhile
            if any(verdict.state for verdict in settlement.verdicts):
                self._progress_at = clock.now()
        self._woken.set()

    def _count_on_the_wire(self, account: str, more: int) -> None:
        self._on_the_wire[account] += more
        self._metrics.in_flight(account, self._on_the_wire[account])

    def _capacities(self) -> dict[str, int]:
        """How many more requests each account may have on the wire; accounts that may have none are left out."""
        free = {name: a.concurrency - self._on_the_wire[name] for name, a in self._settings.accounts.items()}
        return {name: capacity for name, capacity in free.items() if capacity > 0}

    async def _refresh_tokens(self) -> None:
        """Reads what has changed, and lets a refused account try another token at once."""
        self._read_tokens()
        for account, source in self._tokens.items():
            fingerprint = source.fingerprint  # another one may be read while the database is told of this one
            if self._tried_tokens.get(account) != fingerprint:
                if await self._patiently(self._store.fresh_token, account, fingerprint):
                    self._log.info("token_replaced", account=account)
                self._tried_tokens[account] = fingerprint

    def _read_tokens(self, *, force: bool = False) -> None:
        for account, source in self._tokens.items():
            try:
                source.refresh(force=force)
            except ConfigError as error:
                self._complaints.about("token_unreadable", account, str(error))
            else:
                self._complaints.over("token_unreadable", account)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _pause_before_next(self, outlooks: Sequence[Outlook]) -> float:
        """Seconds until something can be claimed, as far as is known; changes that commit meanwhile wake the loop."""
        capacities = self._capacities()
        ready = [o.ready_in_s for o in outlooks if o.ready_in_s is not None and o.account in capacities]
        if self._runtime:
            ready.append(max(CONTENDED_MIN_S, self._runtime.claims_for_s))
        wait_s = min([*ready, self._settings.worker.poll_s])
        if wait_s > 0:
            return wait_s
        contended_s, self._contended_s = self._contended_s, min(CONTENDED_MAX_S, self._contended_s * 2)
        return contended_s

    def _worth_waiting_for(self, outlook: Outlook) -> bool:
        """One run waits for budget, but not for a backoff, a long throttle or the next probe."""
        if outlook.arrivals:
            return True
        if outlook.ready_in_s is None or not outlook.due:
            return False
        account = self._settings.accounts[outlook.account]
        longest_s = account.rate_window_s + account.rate_guard_s + 2 * self._settings.api.timeout_s
        if clock.now() - self._progress_at > longest_s:
            return False  # somebody else uses the budget up, or holds what is due
        return outlook.ready_in_s <= (0 if outlook.pause_kind in ("down", "rejected", "refused") else longest_s)

    async def _sleep(self, seconds: float) -> None:
        self.pulse.beat("loop", rests_s=seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _all_settled(self) -> None:
        """Waits until every claim is written back."""
        self.pulse.beat("loop", rests_s=self._lease_s)
        while +self._on_the_wire:
            self._woken.clear()
            if +self._on_the_wire:
                await self._woken.wait()

    async def _heartbeats(self, started_at: float) -> None:
        while True:
            try:
                await self._store.heartbeat(self._accounts, running_s=clock.now() - started_at)
            except DATABASE_FAULTS as error:
                self._complaints.about("heartbeat_failed", None, str(error))
            else:
                self._complaints.over("heartbeat_failed", None)
            await asyncio.sleep(HEARTBEAT_S)

    def _gives_up(self, waited_s: float) -> bool:
        """Whether the write-back, which waited so long for the database, is to wait no longer."""
        if self._stopping.is_set():
            return waited_s > self._settings.api.timeout_s
        return self._patience.longest_s is not None and waited_s > self._patience.longest_s
