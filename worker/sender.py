"""Sending: what happens to one claim between the database and the wire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, wait_random_exponential

from worker import clock, policy, privacy
from worker.caspen import Caspen
from worker.claims import Claim, Settlement, Slot
from worker.config import Settings
from worker.contract import check_appointment_id
from worker.errors import CaspenSyncError
from worker.merge import Breach, Change, fold, sift
from worker.outcome import Exchange, NotSent, Rejected, Retry, Synced, Unknown
from worker.store import Store
from worker.telemetry import Log
from worker.token import TokenSource

# The wait before a quick retry: between 0 and this, doubling, in seconds.
QUICK_BASE_S = 0.2
QUICK_MAX_S = 2.0

# So many appointments in a row whose requests fail are taken for an API that is down.
API_DOWN_APPOINTMENTS = 3


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
        chance: random.Random,
        log: Log,
        now: Callable[[], float] = clock.now,
    ) -> None:
        self._settings = settings
        self._store = store
        self._caspen = caspen
        self._tokens = tokens
        self._stopping = stopping
        self._chance = chance
        self._log = log
        self._now = now
        self._failing: dict[str, set[str]] = {}

    async def serve(self, claim: Claim) -> Settlement:
        """Sends what the claim holds and says what to write back. A stop before the first byte gives the claim back."""
        account = self._settings.accounts[claim.account]
        limits = policy.Limits(
            timeout_s=self._settings.api.timeout_s,
            window_s=account.rate_window_s,
            backoff_base_s=self._settings.retry.backoff_base_s,
            backoff_max_s=self._settings.retry.backoff_max_s,
            max_attempts=self._settings.retry.max_attempts,
        )
        try:
            return await self._serve(claim, limits)
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
            return policy.failed(claim, type(error).__name__, limits, self._chance)

    async def _serve(self, claim: Claim, limits: policy.Limits) -> Settlement:
        sound: tuple[Change, ...] = ()
        if problem := check_appointment_id(claim.appointment_id):
            breaches = tuple(Breach(change=change, problems=(problem,)) for change in claim.changes)
        else:
            sound, breaches = sift(claim.changes, ids=self._settings.api.ids)
        if not sound or self._stopping.is_set():
            return policy.release(claim, breaches)
        sent = await self._send(claim, fold(sound))
        if not sent:
            return policy.release(claim, breaches)
        down = self._api_is_down(claim, sent[-1].exchange)
        return policy.settle(claim, sound, breaches, sent, limits, self._chance, api_down=down)

    def _api_is_down(self, claim: Claim, exchange: Exchange) -> bool:
        """Whether requests of several appointments failed in a row, this one included, and none was accepted between.

        An API that is down is no fault of the changes: it must not use up their attempts.
        """
        failing = self._failing.setdefault(claim.account, set())
        if isinstance(exchange.outcome, Retry | Unknown | NotSent):
            if len(failing) < API_DOWN_APPOINTMENTS:
                failing.add(claim.appointment_id)
        elif isinstance(exchange.outcome, Synced | Rejected):
            failing.clear()
        return len(failing) >= API_DOWN_APPOINTMENTS

    async def _send(self, claim: Claim, body: dict[str, Any]) -> list[policy.Sent]:
        """The requests of one claim: the first, and quick retries as long as claim, budget and patience last."""
        sent: list[policy.Sent] = []
        slot: Slot | None = claim.slot

        async def once() -> bool:
            """Sends once. True when the same request is worth another try."""
            nonlocal slot
            if sent and self._stopping.is_set():
                return False
            slot = slot or await self._another_slot(claim)
            if slot is None:
                return False
            deadline = policy.deadline(claim, slot, self._settings.api.timeout_s)
            if not policy.may_start(self._now(), deadline, self._settings.api.timeout_s):
                return False
            exchange = await self._exchange(claim, body, deadline)
            sent.append(policy.Sent(slot=slot, exchange=exchange))
            if not isinstance(exchange.outcome, NotSent):
                slot = None
            return policy.worth_a_quick_retry(exchange)

        retrying = AsyncRetrying(
            retry=retry_if_result(lambda again: again),
            stop=self._enough,
            wait=wait_random_exponential(multiplier=QUICK_BASE_S, max=QUICK_MAX_S),
            sleep=self._sleep,
            retry_error_callback=lambda _: False,
        )
        await retrying(once)
        return sent

    async def _exchange(self, claim: Claim, body: dict[str, Any], deadline: float) -> Exchange:
        token = self._tokens[claim.account].token
        return await self._caspen.send(claim.appointment_id, body, token=token, deadline=deadline)

    async def _another_slot(self, claim: Claim) -> Slot | None:
        """A retry costs budget of its own; without any, or time, or a database, the durable backoff takes over."""
        if not policy.may_retry(claim, self._now(), self._settings.api.timeout_s):
            return None
        try:
            return await self._store.take_slot(claim, timeout_s=self._settings.api.timeout_s)
        except CaspenSyncError:
            return None

    def _enough(self, state: RetryCallState) -> bool:
        return self._stopping.is_set() or stop_after_attempt(self._settings.retry.quick_attempts)(state)

    async def _sleep(self, seconds: float) -> None:
        """Waits, but not into a stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
