"""The loop behind every mode: claim, send, write back.

    take in ─▶ claim ─▶ send (one task each) ─▶ write back (batches)
       ▲                                            │
       └──────────── wake: a change, a free slot ───┘

Claims are bounded by what the account may have on the wire; nothing is claimed that would wait for budget.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from worker import clock, times
from worker.agenda import Agenda, one_run_waits_for
from worker.budget import BudgetWatch
from worker.caspen import Caspen
from worker.claims import Claim, Settlement, Written
from worker.complaints import Complaints
from worker.config import Settings
from worker.errors import DATABASE_FAULTS, ExitCode, first_of
from worker.intake import Intake
from worker.keyring import Keyring
from worker.metrics import Metrics
from worker.patience import ONCE_DATABASE_PATIENCE_S, Patience, Stopped
from worker.presence import Presence
from worker.pulse import Pulse
from worker.report import Report, verdict
from worker.runtime import Runtime
from worker.sender import Delivery, Sender
from worker.store import LeftOver, Outlook, Store
from worker.telemetry import Log
from worker.token import TokenSource
from worker.wire import MOST_ON_THE_WIRE, Wire
from worker.writeback import Tally, WriteBack

# How often one run looks at least whether its time is up, in seconds.
RUNTIME_LOOK_S = 0.005

# How often one run looks whether others are done with what they hold.
LEASE_WATCH_S = 0.25


class Engine:
    """Works the accounts of the settings off, until told to stop or, in one run, until nothing pending is due."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        caspen: Caspen,
        tokens: Mapping[str, TokenSource],
        *,
        page_token: TokenSource | None = None,
        log: Log,
        metrics: Metrics | None = None,
        runtime: Runtime | None = None,
        chance: random.Random | None = None,
        most_on_the_wire: int = MOST_ON_THE_WIRE,
    ) -> None:
        """`page_token`: is kept fresh with the accounts' ones. `runtime`: how long one run may take; None: as long as
        it does."""
        self._settings = settings
        self._store = store
        self._log = log
        self._accounts = sorted(settings.accounts)
        self._lease_s = times.lease_s(settings.api.timeout_s)
        self._held: Counter[str] = Counter()
        self._places_kept: set[UUID] = set()
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._progress_at = clock.now()
        self._runtime = runtime
        complaints = Complaints(log)
        self._keyring = Keyring(tokens, page_token, complaints=complaints, log=log)
        self._presence = Presence(store, self._accounts, complaints=complaints)
        self._wire = Wire({name: a.concurrency for name, a in settings.accounts.items()}, most=most_on_the_wire)
        rest_s = {name: a.rate_window_s + a.rate_guard_s for name, a in settings.accounts.items()}
        self._agenda = Agenda(rest_s)
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
        self._intake = Intake(
            settings,
            store,
            agenda=self._agenda,
            wire=self._wire,
            start=self._start,
            stopping=self._stopping,
            patience=self._patience,
            metrics=self._metrics,
            log=log,
        )
        self._writer = WriteBack(
            store,
            rest_s=rest_s,
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
        for account in self._wire.open():
            self._start_sending(account)  # which gives back whatever was not sent
        self._woken.set()

    def wake(self, account: str = "") -> None:
        """Says that there may be something to do, in this account, or in any."""
        accounts = [account] if account else self._accounts
        self._agenda.arrived(name for name in accounts if name in self._settings.accounts)
        self._woken.set()

    def reread_tokens(self) -> None:
        """Reads every token again, changed or not. A refused account then tries another one at once."""
        self._keyring.read(force=True)
        self._woken.set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    @property
    def on_the_wire(self) -> int:
        """How many claims this process holds: what it is sending or writing back."""
        return self._held.total()

    async def run_service(self) -> Report:
        """Works until stopped, through any fault of the database."""
        self._intake.listens = not self._settings.database.pgbouncer
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
        try:
            async with self._parts as parts:
                await self._intake.register()
                self._patience.has_worked()
                self.ready.set()
                presence = parts.create_task(self._presence.run())
                watch = parts.create_task(self._budget.run())
                writer = parts.create_task(self._writer.run())
                await loop()
                await self._all_settled()
                self._writer.close()
                await writer
                watch.cancel()
                await self._presence.end()
                presence.cancel()
        except BaseExceptionGroup as group:
            raise first_of(group) from group

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def _serve_until_stopped(self) -> None:
        with contextlib.suppress(Stopped):
            while not self._stopping.is_set():
                await self._claim_and_send()
                await self._sleep(self._pause_before_next())

    async def _work_until_nothing_is_due(self) -> tuple[Sequence[Outlook], LeftOver]:
        """Returns what the accounts wait for and what is left, once it is nothing that this run waits for too."""
        leases_end_at: float | None = None
        while not self._stopping.is_set():
            if self._runtime and self._runtime.claims_for_s <= 0:
                self.stop()
                break
            await self._claim_and_send()
            pause_s = self._pause_before_next()
            if pause_s <= 0:
                continue
            busy = bool(self._held)  # before the outlook: what is settled after it may make more due
            if busy or any(map(self._worth_waiting_for, self._agenda.outlooks(clock.now()))):
                await self._sleep(pause_s)
                continue
            outlooks = await self._intake.look_out(self._accounts)
            if any(map(self._worth_waiting_for, outlooks)):
                await self._sleep(self._pause_before_next())
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

    async def _claim_and_send(self) -> None:
        """Takes in what arrived, claims what it may, starts sending, and finds out when there will be more to claim."""
        self._woken.clear()
        for account in self._budget.news:
            await self._patiently(self._budget.obey_limit, account)
            self._agenda.unread(account)
        # Last, so that what is claimed now goes out with a token that was looked at now.
        for account in await self._keyring.keep_fresh(self._store, self._patience):
            self._agenda.unread(account)
        await self._intake.round()

    async def _start(self, claims: Sequence[Claim]) -> None:
        """Puts claims on their way."""
        self._wire.add(map(self._sender.prepare, claims))
        got = Counter(claim.account for claim in claims)
        self._count_held(got)
        for account in got:
            self._start_sending(account)
        await asyncio.sleep(0)  # what was claimed goes out before anything else is asked of the database

    def _start_sending(self, account: str) -> None:
        """Gives every free place on the wire to a claim that waits for one."""
        while (delivery := self._wire.enter(account)) is not None:
            self._parts.create_task(self._send(account, delivery))

    async def _send(self, account: str, delivery: Delivery | None) -> None:
        """One place on the wire: a claim's requests, and then those of the claims that wait."""
        while delivery is not None:
            accepted = await self._sender.send(delivery)
            self._writer.put(functools.partial(self._sender.settlement, delivery))
            if self._runtime and delivery.sent:
                self._runtime.answered(delivery.slowest_s)
            if not accepted:
                # What went wrong may pause the account: until it is written, nothing goes out in its place.
                self._places_kept.add(delivery.claim.token)
                return
            delivery = self._wire.go_on(account, delivery.slowest_s)
            if self._agenda.is_ready(account, clock.now()):
                self._woken.set()

    def _settled(self, batch: Sequence[Settlement], written: Written) -> None:
        for paused in written.paused:
            self._sender.paused(paused.account)
        self._agenda.settled(batch, written, clock.now())
        for settlement in batch:
            account = settlement.claim.account
            if settlement.told:
                self._budget.hear(settlement.told)
            if settlement.pause and settlement.pause.kind == "refused":
                self._keyring.refused(account)
            if any(verdict.state for verdict in settlement.verdicts):
                self._progress_at = clock.now()
            if settlement.claim.token in self._places_kept:
                self._places_kept.discard(settlement.claim.token)
                self._wire.leave(account)
                self._start_sending(account)
        self._count_held(Counter(settlement.claim.account for settlement in batch), -1)
        self._woken.set()

    def _count_held(self, counts: Mapping[str, int], sign: int = 1) -> None:
        for account, count in counts.items():
            self._held[account] += sign * count
            self._metrics.in_flight(account, self._held[account])
            if not self._held[account]:
                del self._held[account]

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _pause_before_next(self) -> float:
        """Seconds until something can be claimed, as far as is known; changes that commit meanwhile wake the loop."""
        if self._agenda.has_arrived:
            return 0.0
        now = clock.now()
        next_at = min(self._agenda.next_at(self._wire.has_room), self._intake.looks_again_at)
        if self._runtime:
            next_at = min(next_at, now + max(RUNTIME_LOOK_S, self._runtime.claims_for_s))
        return max(0.0, next_at - now)

    def _worth_waiting_for(self, outlook: Outlook) -> bool:
        account = self._settings.accounts[outlook.account]
        longest_s = account.rate_window_s + account.rate_guard_s + 2 * self._settings.api.timeout_s
        return one_run_waits_for(outlook, longest_s=longest_s, idle_s=clock.now() - self._progress_at)

    async def _sleep(self, seconds: float) -> None:
        self.pulse.beat("loop", rests_s=seconds)
        if seconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _all_settled(self) -> None:
        """Waits until every claim is written back."""
        self.pulse.beat("loop", rests_s=self._lease_s)
        while self._held:
            self._woken.clear()
            await self._woken.wait()

    def _gives_up(self, waited_s: float) -> bool:
        """Whether the write-back, which waited so long for the database, is to wait no longer."""
        if self._stopping.is_set():
            return waited_s > self._settings.api.timeout_s
        return self._patience.longest_s is not None and waited_s > self._patience.longest_s
