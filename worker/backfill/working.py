"""Working a backfill off in this process, beside any service, until nothing of it is pending."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import asyncpg

from worker.backfill.progress import Gauge, Progress
from worker.backfill.registry import Backfill
from worker.config import Settings
from worker.database import pool
from worker.engine import Engine
from worker.errors import DATABASE_FAULTS, CaspenSyncError, ExitCode
from worker.listen import listen
from worker.metrics import Metrics
from worker.report import Report, why_paused, why_refused
from worker.runner import with_engine
from worker.service import serve_beside
from worker.store import Outlook, Store
from worker.systemd import Notifier
from worker.telemetry import log
from worker.token import account_token
from worker.words import counted

# What needs a person was so at two looks in a row: a token that was replaced meanwhile has been tried by then.
STUCK_LOOKS = 2
# How long the last look, for what is said at the end, may take, in seconds.
LAST_LOOK_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """How waiting for a backfill ended."""

    exit_code: ExitCode
    progress: Progress | None
    """As it was at the end; None: it was never known."""
    found: tuple[Backfill, ...]
    """The backfill in each account, as it was counted last."""
    reason: str | None
    """For a person, when the exit code is not 0."""


async def work_off(
    settings: Settings, name: str, accounts: Collection[str], *, show: Callable[[Progress], None]
) -> Worked:
    """Works the accounts of a backfill off, live changes too, until nothing of it is pending, whoever sent it.

    It waits through backoff, throttling, an API that is down and a database that goes away; what needs a person ends
    it, and so does a signal, as it ends `run`. `show` is given how far it is, twice a second at the most. Raises
    CaspenSyncError where `run` does.
    """
    ours = settings.model_copy(update={"accounts": {account: settings.accounts[account] for account in accounts}})
    tokens = {account: account_token(account, its) for account, its in ours.accounts.items()}
    watches: list[_Watch] = []

    async def work(engine: Engine, store: Store, _: asyncpg.Pool) -> Report:
        # A connection of its own: the engine's are ended under whoever uses them when it stops at once.
        async with pool(ours.database, max_size=1) as connections:
            watch = _Watch(engine, Gauge(connections, store, ours, name), show)
            watches.append(watch)
            beside = [watch.run()]
            if not ours.database.pgbouncer:
                beside.append(listen(ours.database, engine.wake, log=log()))
            report = await serve_beside(engine.run_service(), beside)
            await watch.look_at_last()
        return report

    report = await with_engine(work, ours, tokens, once=True, metrics=Metrics(), notifier=Notifier(), reloads=False)
    return _verdict(name, report, watches[0] if watches else None)


class _Watch:
    """Looks how far the backfill is, and stops the engine when there is nothing more to wait for."""

    def __init__(self, engine: Engine, gauge: Gauge, show: Callable[[Progress], None]) -> None:
        self._engine = engine
        self._gauge = gauge
        self._show = show
        self.progress: Progress | None = None
        self.stuck: list[Outlook] = []
        """The accounts that need a person, when that is why it ended."""

    @property
    def found(self) -> tuple[Backfill, ...]:
        return self._gauge.found

    async def run(self) -> None:
        """Looks until cancelled."""
        await self._engine.ready.wait()
        stuck_looks = 0
        while True:
            with contextlib.suppress(*DATABASE_FAULTS):
                progress = await self._look()
                stuck = _stuck(progress)
                stuck_looks = stuck_looks + 1 if stuck else 0
                if not self._engine.stopping and (not progress.pending or stuck_looks >= STUCK_LOOKS):
                    self.stuck = stuck
                    self._engine.stop()
            await asyncio.sleep(self._gauge.rest_s)

    async def look_at_last(self) -> None:
        """Once more, after the last answer was written back, if the database has it."""
        with contextlib.suppress(*DATABASE_FAULTS, TimeoutError):
            async with asyncio.timeout(LAST_LOOK_S):
                await self._look()

    async def _look(self) -> Progress:
        try:
            progress = replace(await self._gauge.look(), stopping=self._engine.stopping)
        except DATABASE_FAULTS as fault:
            self._tell_of(fault)
            raise
        self.progress = progress
        self._show(progress)
        return progress

    def _tell_of(self, fault: CaspenSyncError) -> None:
        if self.progress:
            self._show(replace(self.progress, fault=str(fault), stopping=self._engine.stopping))


def _stuck(progress: Progress) -> list[Outlook]:
    """The accounts that need a person, when that is all that the backfill waits for. A probe that is due, or on its
    way, is waited for."""
    outlooks = [one.outlook for one in progress.accounts if one.pending]
    need_a_person = [
        outlook
        for outlook in outlooks
        if outlook.pause_kind == "manual"
        or (outlook.pause_kind in ("refused", "rejected") and (outlook.paused_for_s or 0.0) > 0)
    ]
    return need_a_person if len(need_a_person) == len(outlooks) else []


def _verdict(name: str, report: Report, watch: _Watch | None) -> Worked:
    progress = watch.progress if watch else None
    found = watch.found if watch else ()
    exit_code, reason = ExitCode.OK, None
    if watch is None or progress is None or progress.pending:
        exit_code, reason = _left(name, report, watch)
    elif cancelled := [one for one in found if one.cancelled_at]:
        exit_code = ExitCode.WORK_LEFT
        reason = f"backfill {name} was cancelled by {cancelled[0].cancelled_by}; what was pending of it is discarded"
    elif progress.parked:
        verb = "is" if progress.parked == 1 else "are"
        exit_code = ExitCode.PARKED
        reason = f"{counted(progress.parked, 'change')} of {name} {verb} parked; see caspen-sync parked list"
    return Worked(exit_code=exit_code, progress=progress, found=found, reason=reason)


def _left(name: str, report: Report, watch: _Watch | None) -> tuple[ExitCode, str]:
    """Why it ended although not all of it is done, and how to go on."""
    stuck = watch.stuck if watch else []
    refused = [outlook.account for outlook in stuck if outlook.pause_kind == "refused"]
    others = [outlook for outlook in stuck if outlook.pause_kind != "refused"]
    reasons = [*([why_refused(refused)] if refused else []), *map(why_paused, others)]
    pending = watch.progress.pending if watch and watch.progress else None
    left = f"some of {name}" if pending is None else f"{counted(pending, 'change')} of {name}"
    why = "; ".join(reasons) or report.reason or "interrupted"
    reason = (
        f"{why}; {left} {'is' if pending == 1 else 'are'} left: run the same command again, or leave it to a running "
        f"service; caspen-sync backfill status {shlex.quote(name)}"
    )
    return ExitCode.REFUSED if refused else ExitCode.WORK_LEFT, reason
