"""Sending: what happens to one claim between the database and the wire."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_random_exponential

from worker import clock, policy, privacy, times, tracing
from worker.caspen import Caspen, Request
from worker.claims import Claim, Settlement, Slot
from worker.config import AccountSettings, Settings
from worker.contract import check_appointment_id
from worker.errors import CaspenSyncError, ConfigError
from worker.merge import Breach, Change, fold, sift
from worker.outcome import NotSent, Refused, Synced
from worker.runtime import Runtime
from worker.store import Store
from worker.telemetry import Log
from worker.token import TokenSource

# The wait before a quick retry: between 0 and this, doubling, in seconds.
QUICK_BASE_S = 0.2
QUICK_MAX_S = 2.0


@dataclass(slots=True)
class Delivery:
    """One claim on its way: what of it is to be sent, and what was."""

    claim: Claim
    sound: tuple[Change, ...] = ()
    breaches: tuple[Breach, ...] = ()
    """What breaks the contract."""
    outdated: tuple[Change, ...] = ()
    """That of which newer changes have left nothing to send."""
    request: Request | None = None
    slot: Slot | None = None
    """For the next request; None: it needs another one."""
    sent: list[policy.Sent] = field(default_factory=list)
    """The requests, as they were answered."""
    fault: str | None = None
    """A fault of ours that ended it: its type."""

    @property
    def slowest_s(self) -> float:
        """How long its slowest request took."""
        return max([one.exchange.ended_at - one.exchange.started_at for one in self.sent], default=0.0)


class Sender:
    """Turns claims into settlements, in three steps of which only the middle one takes time."""

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

    def prepare(self, claim: Claim) -> Delivery:
        """Finds out what of a claim is to be sent. Claims that come together are best prepared together: what is done
        once for each of them, between all that a request takes, takes twice as long."""
        delivery = Delivery(claim=claim, slot=claim.slot)
        try:
            self._sift(delivery)
            if delivery.sound:
                delivery.request = self._caspen.request(claim.appointment_id, fold(delivery.sound))
        except Exception as error:  # noqa: BLE001
            self._failed(delivery, error)
        return delivery

    async def send(self, delivery: Delivery) -> bool:
        """Sends it. True when the API has accepted it. After a stop, or when its account is paused by now, nothing goes
        out."""
        if delivery.request is None or self._stopping.is_set() or self._overtaken(delivery.claim):
            return False
        try:
            # Nearly all go out once, and tenacity takes longer to set up than such a request takes to make.
            if await self._once(delivery, delivery.request):
                await self._again(delivery, delivery.request)
        except Exception as error:  # noqa: BLE001
            self._failed(delivery, error)
            return False
        return bool(delivery.sent) and isinstance(delivery.sent[-1].exchange.outcome, Synced)

    def settlement(self, delivery: Delivery) -> Settlement:
        """What to write back. As with `prepare`, best done for many together."""
        claim, sent, limits = delivery.claim, delivery.sent, self._limits[delivery.claim.account]
        breaches, outdated = delivery.breaches, delivery.outdated
        try:
            if delivery.fault is None and not sent:
                return policy.release(claim, breaches, outdated)
            if delivery.fault is None:
                return policy.settle(
                    claim, delivery.sound, sent, limits, self._chance, breaches=breaches, outdated=outdated
                )
        except Exception as error:  # noqa: BLE001
            self._failed(delivery, error)
        return policy.failed(claim, delivery.fault or "", limits, self._chance, sent)

    def paused(self, account: str) -> None:
        """The account is paused now: what was claimed before, and waits for its turn, is given back."""
        self._paused_at[account] = self._now()

    def _overtaken(self, claim: Claim) -> bool:
        return claim.probing is None and self._paused_at.get(claim.account, -math.inf) >= claim.claimed_at

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        """A fault of ours: one appointment that we have no answer for must not take the process with it, and all the
        others. Its message could quote a body; its type and its places cannot."""
        delivery.fault = type(error).__name__
        self._log.error(
            "claim_failed",
            account=delivery.claim.account,
            appointment_id=delivery.claim.appointment_id,
            error=delivery.fault,
            at=privacy.places(error),
        )

    def _sift(self, delivery: Delivery) -> None:
        """Parts the changes to send from those that may not be sent, and those of which nothing is left to send."""
        claim = delivery.claim
        if problem := check_appointment_id(claim.appointment_id):
            delivery.breaches = tuple(Breach(change=change, problems=(problem,)) for change in claim.changes)
            return
        sound, delivery.breaches = sift(claim.changes, ids=self._settings.api.ids)
        if any(change.superseded for change in sound):
            delivery.outdated = tuple(change for change in sound if change.outdated)
            sound = tuple(change for change in sound if not change.outdated)
        delivery.sound = sound

    async def _once(self, delivery: Delivery, request: Request) -> bool:
        """Sends once. True when the same request is worth another try."""
        claim, sent = delivery.claim, delivery.sent
        if sent and (self._stopping.is_set() or self._overtaken(claim)):
            return False
        slot = delivery.slot or await self._another_slot(claim)
        if slot is None:
            return False
        deadline = times.deadline(claim, slot, self._settings.api.timeout_s)
        if not times.may_start(self._now(), deadline, self._settings.api.timeout_s):
            return False
        if self._runtime:
            deadline = min(deadline, self._runtime.requests_end_at)
        source = self._tokens[claim.account]
        token, fingerprint = source.token, source.fingerprint
        sending = self._caspen.send(request, token=token, deadline=deadline)
        exchange = await tracing.followed(sending, claim, delivery.sound, resends=len(sent))
        sent.append(policy.Sent(slot=slot, exchange=exchange, token=fingerprint))
        delivery.slot = slot if isinstance(exchange.outcome, NotSent) else None
        if isinstance(exchange.outcome, Refused):
            return self._another_token(claim.account, fingerprint)
        return policy.worth_a_quick_retry(exchange)

    async def _again(self, delivery: Delivery, request: Request) -> None:
        """Quick retries, as long as claim, budget and patience last."""
        # What failed a whole claim long is not mended in a second: an outage would use up the attempts in a minute.
        most = self._settings.retry.quick_attempts if delivery.claim.failures == 0 else 1
        first = [True]

        async def tried() -> bool:
            """What the first request came to, and from then on another one."""
            return first.pop() if first else await self._once(delivery, request)

        retrying = AsyncRetrying(
            retry=retry_if_result(bool),
            stop=lambda state: self._stopping.is_set() or stop_after_attempt(most)(state),
            wait=wait_random_exponential(multiplier=QUICK_BASE_S, max=QUICK_MAX_S),
            sleep=self._sleep,
            retry_error_callback=lambda _: False,
        )
        await retrying(tried)

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
