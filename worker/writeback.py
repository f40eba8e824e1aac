"""Writing back: outcomes that arrive together are written together, one transaction a batch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import asyncpg
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from worker import parts
from worker.claims import Answer, RunUpKind, Settlement, Written, joined
from worker.errors import DATABASE_FAULTS
from worker.metrics import Metrics
from worker.pulse import Pulse
from worker.store import Store
from worker.telemetry import Log

MAX_BATCH = 256

# An answer that Postgres cannot hold is asked for again this often, after so many seconds, doubling.
STORE_ATTEMPTS = 5
STORE_BASE_S = 30.0


@dataclass(slots=True)
class Tally:
    """What a run did."""

    requests: int = 0
    synced: int = 0
    parked: int = 0
    folded: int = 0
    """Changes that needed no request of their own."""
    mismatches: int = 0
    lease_lost: int = 0
    undelivered: int = 0
    """Requests that could not even be sent."""
    answered: int = 0


class WriteBack:
    """Takes settlements in, and writes them in batches until it is closed."""

    def __init__(
        self,
        store: Store,
        *,
        rest_s: Mapping[str, float],
        settled: Callable[[Sequence[Settlement], Written], None],
        give_up: Callable[[float], bool],
        tally: Tally,
        metrics: Metrics,
        pulse: Pulse,
        log: Log,
    ) -> None:
        """`rest_s`: how long a slot of each account cools. `settled` hears of each batch that is written. `give_up` is
        asked, after so many seconds without a database, whether to raise instead of waiting on."""
        self._store = store
        self._rest_s = rest_s
        self._settled = settled
        self._give_up = give_up
        self._tally = tally
        self._metrics = metrics
        self._pulse = pulse
        self._log = log
        self._batches = 0
        self._waiting: asyncio.Queue[Callable[[], Settlement] | None] = asyncio.Queue()

    def put(self, settle: Callable[[], Settlement]) -> None:
        """Takes a settlement in, which is made when its batch is; it is written soon."""
        self._waiting.put_nowait(settle)

    def close(self) -> None:
        """Lets `run` return once everything that was put is written."""
        self._waiting.put_nowait(None)

    async def run(self) -> None:
        """Writes until closed. An unreachable database is waited for: an outcome that the API gave is not dropped."""
        closing = False
        while not closing:
            taken: list[Callable[[], Settlement]] = []
            self._pulse.rest("write_back")
            settle = await self._waiting.get()
            while settle is not None:
                taken.append(settle)
                if len(taken) == MAX_BATCH or self._waiting.empty():
                    break
                settle = self._waiting.get_nowait()
            closing = settle is None
            batch = [settle() for settle in taken]
            if batch:
                self._batches += 1
                structlog.contextvars.bind_contextvars(batch=self._batches)
                written = await self._write(batch)
                self._report_batch(batch)
                self._settled(batch, written)

    async def _write(self, batch: Sequence[Settlement]) -> Written:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(DATABASE_FAULTS),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=lambda state: self._give_up(state.seconds_since_start or 0.0),
            before=lambda _: self._pulse.beat("write_back"),
            before_sleep=self._complain,
            reraise=True,
        )
        # Whoever paused the account was to do that. If it died before, the probe does, before anybody hears of its end.
        probed = (settlement.claim for settlement in batch)
        await self._reinstate({(c.account, c.probing) for c in probed if c.probing in ("down", "rejected")})
        try:
            written: Written = await retrying(self._store.settle, batch, self._rest_s)
        except asyncpg.PostgresError as error:
            return await self._write_apart(batch, error)
        self._metrics.settled(batch, written)
        self._count(batch, written.lost)
        self._report_accounts(batch, written)
        await self._reinstate(written.reinstate)
        await self._bring_back_given_up(written.heard_again)
        return written

    async def _reinstate(self, run_ups: Iterable[tuple[str, RunUpKind]]) -> None:
        """Gives back what run-ups cost. A database that is away now is no reason to wait: a later probe does it."""
        for account, kind in sorted(run_ups):
            with contextlib.suppress(*DATABASE_FAULTS):
                changes, parked = await self._store.reinstate(account, kind)
                self._tally.parked = max(0, self._tally.parked - parked)  # another run may have parked them
                if changes:
                    self._log.info("changes_reinstated", account=account, kind=kind, changes=changes)

    async def _bring_back_given_up(self, accounts: Iterable[str]) -> None:
        """What was given up while nothing was heard of the API. If it cannot be done now, the next answer does it."""
        for account in accounts:
            with contextlib.suppress(*DATABASE_FAULTS):
                if changes := await self._store.given_up(account):
                    self._tally.parked = max(0, self._tally.parked - changes)
                    self._log.info("changes_reinstated", account=account, kind="given_up", changes=changes)

    async def _write_apart(self, batch: Sequence[Settlement], error: asyncpg.PostgresError) -> Written:
        """One answer that Postgres cannot hold (a NUL, a number of a million digits) must not hold up the others."""
        if len(batch) > 1:
            return joined([await self._write([settlement]) for settlement in batch])
        settlement = batch[0]
        self._log.warning(
            "answer_not_storable", appointment_id=settlement.claim.appointment_id, error=type(error).__name__
        )
        if settlement.answer is None:
            raise error
        return await self._write([_without_answer(settlement, settlement.answer)])

    def _complain(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._metrics.database_failed()
        self._log.warning("write_back_waits", attempt=state.attempt_number, error=str(error))

    def _count(self, batch: Sequence[Settlement], lost: Sequence[Settlement]) -> None:
        tally = self._tally
        lost_claims = {id(settlement) for settlement in lost}
        self._report_failures(batch)
        talkative = self._log.is_enabled_for(logging.DEBUG)
        for settlement in batch:
            tally.requests += len(settlement.attempts)
            tally.answered += sum(attempt.http_status is not None for attempt in settlement.attempts)
            tally.undelivered += not settlement.attempts and settlement.failures > settlement.claim.failures
            if id(settlement) in lost_claims:
                tally.lease_lost += 1
                self._log.warning(
                    "lease_lost",
                    account=settlement.claim.account,
                    appointment_id=settlement.claim.appointment_id,
                    attempts=len(settlement.attempts),
                )
                continue
            synced = sum(verdict.state == "synced" for verdict in settlement.verdicts)
            tally.synced += synced
            tally.folded += max(0, synced - 1)
            tally.mismatches += bool(settlement.mismatches)
            if settlement.mismatches or talkative or any(verdict.state != "synced" for verdict in settlement.verdicts):
                self._report(settlement)

    def _report_batch(self, batch: Sequence[Settlement]) -> None:
        self._log.info(
            "batch_settled",
            claims=len(batch),
            requests=sum(len(settlement.attempts) for settlement in batch),
            synced=sum(verdict.state == "synced" for settlement in batch for verdict in settlement.verdicts),
        )

    def _report_failures(self, batch: Sequence[Settlement]) -> None:
        """One line a batch, so that an outage is seen without a line for each request."""
        failed = [s for s in batch if s.failures > s.claim.failures]
        if failed:
            reasons = Counter(verdict.error for s in failed for verdict in s.verdicts[-1:])
            self._log.warning("requests_failed", appointments=len(failed), reasons=dict(reasons.most_common(3)))

    def _report(self, settlement: Settlement) -> None:
        claim = settlement.claim
        log = self._log.bind(account=claim.account, appointment_id=claim.appointment_id)
        for attempt in settlement.attempts:
            log.debug(
                "request",
                outcome=attempt.outcome,
                http_status=attempt.http_status,
                duration_ms=round(attempt.duration_s * 1000),
                changes=len(attempt.change_ids),
                error=attempt.error,
            )
        for verdict in settlement.verdicts:
            if verdict.state == "parked":
                self._tally.parked += 1
                log.warning("change_parked", change_id=verdict.change_id, error=verdict.error)
            elif verdict.state == "discarded":
                log.info("change_superseded", change_id=verdict.change_id)
        if settlement.mismatches:
            log.warning("answer_differs", fields=list(settlement.mismatches))

    def _report_accounts(self, batch: Sequence[Settlement], written: Written) -> None:
        for paused in written.paused:
            self._log.warning(
                "account_paused" if paused.began else "account_still_paused",
                account=paused.account,
                kind=paused.kind,
                reason=paused.reason,
                for_s=round(paused.for_s, 1),
                times=paused.pauses,
            )
        for account in written.welcomed:
            self._log.info("account_welcome_again", account=account)
        # By our own count there was room: whatever is in its place is somebody else's. See hold_back.sql.
        throttled = Counter(used.slot.account for settlement in batch for used in settlement.slots if used.throttled)
        for account, slots in throttled.items():
            self._log.warning("budget_shared", account=account, held_back=slots)
        for pause in (settlement.pause for settlement in batch):
            if pause and pause.absurd_s is not None:
                self._log.warning(
                    "throttle_capped", account=pause.account, asked_s=round(pause.absurd_s), wait_s=round(pause.wait_s)
                )


def _without_answer(settlement: Settlement, answer: Answer) -> Settlement:
    """The change was accepted, but its answer cannot be kept: it goes out again, as after a garbled answer, up to
    STORE_ATTEMPTS times, and is then a person's business."""
    failures = settlement.claim.failures + 1
    given_up = failures >= STORE_ATTEMPTS
    reason = "accepted, but the answer cannot be stored in Postgres"
    accepted = [change for change in settlement.claim.changes if change.id == answer.last_change_id]
    return replace(
        settlement,
        answer=None,
        due_in_s=None if given_up else STORE_BASE_S * 2**failures,
        failures=0 if given_up else failures,
        unsure_ids=parts.with_unsure(settlement.claim, accepted),
        verdicts=tuple(
            replace(verdict, state="parked" if given_up else None, error=reason)
            if verdict.state == "synced"
            else verdict
            for verdict in settlement.verdicts
        ),
    )
