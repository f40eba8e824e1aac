"""Sending: what happens to one claim between the database and the wire."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_random_exponential

from worker import clock, policy, privacy, times, tracing
from worker.caspen import Caspen
from worker.claims import Claim, Settlement, Slot
from worker.config import AccountSettings, Settings
from worker.contract import check_appointment_id
from worker.errors import CaspenSyncError, ConfigError
from worker.merge import Breach, Change, fold, sift
from worker.outcome import NotSent, Refused
from worker.runtime import Runtime
from worker.store import Store
from worker.telemetry import Log
from worker.token import TokenSource

# The wait before a quick retry: between 0 and this, doubling, in seconds.
QUICK_BASE_S = 0.2
QUICK_MAX_S = 2.0


class Sender:
    """Turns claims into settlements."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        caspen: Caspen,
        tokens: Mapping[str, TokenSource],
        *,
        stopping: asyncio.Event,
        runtime: Runtime | None = None,
        chance: random.Random,
        log: Log,
        now: Callable[[], float] = clock.now,
    ) -> None:
        self._settings = settings
        self._store = store
        self._caspen = caspen
        self._tokens = tokens
        self._stopping = stopping
        self._runtime = runtime
        self._chance = chance
        self._log = log
        self._now = now
        self._paused_at: dict[str, float] = {}
        self._limits = {name: _limits(settings, account) for name, account in settings.accounts.items()}

    async def serve(self, claim: Claim) -> Settlement:
        """Sends what the claim holds and says what to write back. A stop before the first byte gives the claim back."""
        limits = self._limits[claim.account]
        sent: list[policy.Sent] = []
        try:
            return await self._serve(claim, limits, sent)
        except Exception as error:  # noqa: BLE001
            # One appointment that we have no answer for must not take the process with it, and all the others.
            # Its message could quote a body; its type and its places cannot.
            self._log.error(
                "claim_failed",
                account=claim.account,
                appointment_id=claim.appointment_id,
                error=type(error).__name__,
                at=privacy.places(error),
            )
            return policy.failed(claim, type(error).__name__, limits, self._chance, sent)

    async def _serve(self, claim: Claim, limits: times.Limits, sent: list[policy.Sent]) -> Settlement:
        """`sent` takes in the requests as they are answered, for whoever has to go on after a fault of ours."""
        sound, breaches, outdated = self._sifted(claim)
        if not sound or self._stopping.is_set() or self._overtaken(claim):
            return policy.release(claim, breaches, outdated)
        await self._send(claim, sound, sent)
        if not sent:
            return policy.release(claim, breaches, outdated)
        return policy.settle(
            claim,
            sound,
            sent,
            limits,
            self._chance,
            breaches=breaches,
            outdated=outdated,
        )

    def paused(self, account: str) -> None:
        """The account is paused now: what was claimed before, and waits for its turn, is given back."""
        self._paused_at[account] = self._now()

    def _overtaken(self, claim: Claim) -> bool:
        return claim.probing is None and self._paused_at.get(claim.account, -math.inf) >= claim.claimed_at

    def _sifted(self, claim: Claim) -> tuple[tuple[Change, ...], tuple[Breach, ...], tuple[Change, ...]]:
        """The changes to send, those that may not be sent, and those of which nothing is left to send."""
        if problem := check_appointment_id(claim.appointment_id):
            return (), tuple(Breach(change=change, problems=(problem,)) for change in claim.changes), ()
        sound, breaches = sift(claim.changes, ids=self._settings.api.ids)
        outdated = tuple(change for change in sound if change.outdated)
        return tuple(change for change in sound if not change.outdated), breaches, outdated

    async def _send(self, claim: Claim, changes: Sequence[Change], sent: list[policy.Sent]) -> None:
        """The requests of one claim: the first, and quick retries as long as claim, budget and patience last."""
        body = fold(changes)
        slot: Slot | None = claim.slot
        # What failed a whole claim long is not mended in a second: an outage would use up the attempts in a minute.
        most = self._settings.retry.quick_attempts if claim.failures == 0 else 1

        async def once() -> bool:
            """Sends once. True when the same request is worth another try."""
            nonlocal slot
            if sent and self._stopping.is_set():
                return False
            slot = slot or await self._another_slot(claim)
            if slot is None:
                return False
            deadline = times.deadline(claim, slot, self._settings.api.timeout_s)
            if not times.may_start(self._now(), deadline, self._settings.api.timeout_s):
                return False
            if self._runtime:
                deadline = min(deadline, self._runtime.requests_end_at)
            source = self._tokens[claim.account]
            token, fingerprint = source.token, source.fingerprint
            sending = self._caspen.send(claim.appointment_id, body, token=token, deadline=deadline)
            exchange = await tracing.followed(sending, claim, changes, resends=len(sent))
            sent.append(policy.Sent(slot=slot, exchange=exchange, token=fingerprint))
            if not isinstance(exchange.outcome, NotSent):
                slot = None
            if isinstance(exchange.outcome, Refused):
                return self._another_token(claim.account, fingerprint)
            return policy.worth_a_quick_retry(exchange)

        # Nearly all go out once, and tenacity takes longer to set up than such a request takes to make.
        first = [await once()]
        if not first[0]:
            return

        async def again() -> bool:
            """What the first came to, and from then on another."""
            return first.pop() if first else await once()

        retrying = AsyncRetrying(
            retry=retry_if_result(bool),
            stop=lambda state: self._stopping.is_set() or stop_after_attempt(most)(state),
            wait=wait_random_exponential(multiplier=QUICK_BASE_S, max=QUICK_MAX_S),
            sleep=self._sleep,
            retry_error_callback=lambda _: False,
        )
        await retrying(again)

    def _another_token(self, account: str, refused: str) -> bool:
        """The token was refused: reads it once more. True when there is another one to try."""
        source = self._tokens[account]
        try:
            source.refresh(force=True)
        except ConfigError as error:
            self._log.warning("token_unreadable", error=str(error))
        return source.fingerprint != refused

    async def _another_slot(self, claim: Claim) -> Slot | None:
        """A retry costs budget of its own; without any, or time, or a database, the durable backoff takes over."""
        if not times.may_retry(claim, self._now(), self._settings.api.timeout_s):
            return None
        try:
            return await self._store.take_slot(claim, timeout_s=self._settings.api.timeout_s)
        except CaspenSyncError:
            return None

    async def _sleep(self, seconds: float) -> None:
        """Waits, but not into a stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _limits(settings: Settings, account: AccountSettings) -> times.Limits:
    return times.Limits(
        timeout_s=settings.api.timeout_s,
        window_s=account.rate_window_s,
        backoff_base_s=settings.retry.backoff_base_s,
        backoff_max_s=settings.retry.backoff_max_s,
        max_attempts=settings.retry.max_attempts,
        probe_base_s=settings.retry.probe_base_s,
        probe_max_s=settings.retry.probe_max_s,
    )
