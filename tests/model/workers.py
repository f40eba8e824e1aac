"""Workers, put together out of the product's own parts and taken step by step, so that any interleaving is a schedule.

A worker that is not taken further is frozen; one that is dropped was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import asyncpg
import structlog

from tests.model.clock import Clock
from tests.model.leases import Leases
from tests.model.wire import Flight, ModelCaspen, Reply, Request, Session, flying
from worker import times
from worker.claims import Claim, RunUpKind, Settlement, Written
from worker.config import Settings
from worker.errors import DatabaseUnreachable
from worker.metrics import Metrics
from worker.pulse import Pulse
from worker.sender import Delivery, Sender
from worker.store import Store
from worker.token import TokenSource
from worker.writeback import Tally, WriteBack


def _fault_of_ours(_logger: Any, _level: str, event: dict[str, Any]) -> NoReturn:
    raise AssertionError(f"the worker says of itself: {event}")


# What it logs is nobody's business here, but for its own faults.
_log = structlog.wrap_logger(
    None, processors=[_fault_of_ours], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
)
_metrics = Metrics()


class ModelStore(Store):
    """The product's store, watched."""

    def __init__(self, pool: asyncpg.Pool, name: str, settings: Settings, leases: Leases, clock: Clock) -> None:
        super().__init__(pool, worker=name, retry=settings.retry)
        self._leases = leases
        self._clock = clock
        self.attempts = 0
        """Requests that it has written down."""
        self.gives_back = True
        """False: it dies before what a run-up cost is given back."""
        self.commit_unheard = False
        """True: the answer to its next commit gets lost, and the batch comes again."""

    async def settle(self, settlements: Sequence[Settlement], rest_s: Any) -> Written:
        """As the product's; what it says of lost leases must be what the model knows."""
        now = self._clock.now()
        held = [self._leases.holds(one.claim, now) for one in settlements]
        written = await super().settle(settlements, rest_s)
        again = written
        if self.commit_unheard:
            self.commit_unheard = False
            again = await super().settle(settlements, rest_s)
            assert again.lost == written.lost, "what was written once is known when it comes again"
        # A batch that comes again is known by the appointments that it still held: nothing of those is written twice.
        known = {one.claim.appointment_id for one in settlements if one not in written.lost}
        for one, was_held in zip(settlements, held, strict=True):
            lost = one in written.lost
            twice = again is not written and one.claim.appointment_id not in known
            self.attempts += len(one.attempts) * (2 if twice else 1)
            assert was_held is None or lost is not was_held, f"lease held: {was_held}; said to be lost: {lost}"
            if not lost:
                self._leases.settled(one.claim)
        return written

    async def reinstate(self, account: str, kind: RunUpKind) -> tuple[int, int]:
        if not self.gives_back:
            raise DatabaseUnreachable
        return await super().reinstate(account, kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all workers of a run share."""

    account: str
    settings: Settings
    pool: asyncpg.Pool
    clock: Clock
    leases: Leases
    on_wire: list[Request]
    token: TokenSource


class Worker:
    """One process."""

    def __init__(self, name: str, around: Surroundings, chance: random.Random) -> None:
        self.name = name
        self._around = around
        self._account = around.account
        self._timeout_s = around.settings.api.timeout_s
        account = around.settings.accounts[around.account]
        self._coalesce = around.settings.worker.coalesce
        self.store = ModelStore(around.pool, name, around.settings, around.leases, around.clock)
        now = around.clock.now
        self._sender = Sender(
            around.settings,
            self.store,
            ModelCaspen.over(Session(now, self._timeout_s, around.on_wire), self._timeout_s),
            {around.account: around.token},
            stopping=asyncio.Event(),
            chance=chance,
            log=_log,
            now=now,
        )
        self._write_back = WriteBack(
            self.store,
            rest_s={around.account: account.rate_window_s + account.rate_guard_s},
            settled=lambda *_: None,
            give_up=lambda _: True,
            tally=Tally(),
            metrics=_metrics,
            pulse=Pulse(),
            log=_log,
        )
        self.waiting: list[Delivery] = []
        self.flights: list[Flight] = []
        self.done: list[Delivery] = []

    async def take_in(self) -> int:
        return (await self.store.take_in([self._account])).get(self._account, 0)

    async def claim(self, most: int) -> int:
        """Claims what is due; how many that were."""
        claims = await self.store.claim({self._account: most}, **self._times())
        self._hold(claims)
        return len(claims)

    async def claim_arrival(self) -> None:
        got = await self.store.claim_arrival(self._account, **self._times())
        if got:
            self._hold([got[0]])

    async def start(self, nth: int = 0) -> None:
        """Begins to send one of the claims that it holds."""
        flight = Flight(self.waiting.pop(nth))
        self.flights.append(flight)
        flight.task = asyncio.create_task(self._fly(flight))
        await self._moves(flight)

    async def connect(self, flight: Flight, error: Exception | None = None) -> None:
        """The connection that a request waits for is there, or cannot be had."""
        request = flight.request
        assert request is not None
        assert not request.connected.done()
        if error:
            request.connected.set_exception(error)
        else:
            request.connected.set_result(None)
        await self._moves(flight)

    async def hear(self) -> None:
        """Hears the answers that are there, and finds out for what it has waited in vain."""
        for flight in list(self.flights):
            request = flight.request
            assert request is not None
            late = self._around.clock.now() >= request.due_at
            if request.sent and (request.reply or late):
                request.answered.set_result(request.reply or Reply(error=TimeoutError()))
                await self._moves(flight)
            elif not request.sent and late:
                await self.connect(flight, TimeoutError())

    async def write_back(self) -> None:
        """Writes down what became of the requests that are over."""
        batch = [self._sender.settlement(delivery) for delivery in self.done]
        self.done = []
        if batch:
            written = await self._write_back._write(batch)
            for paused in written.paused:
                self._sender.paused(paused.account)

    async def die(self) -> None:
        """kill -9. What it has sent stays on its way."""
        for flight in self.flights:
            if flight.task:
                flight.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await flight.task
        self.waiting, self.flights, self.done = [], [], []

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.flights or self.done)

    def _times(self) -> dict[str, Any]:
        most = 1000 if self._coalesce else 1
        return {"timeout_s": self._timeout_s, "lease_s": times.lease_s(self._timeout_s), "max_changes": most}

    def _hold(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._around.leases.given(claim, self._around.clock.now())
            self.waiting.append(self._sender.prepare(claim))

    async def _fly(self, flight: Flight) -> bool:
        flying.set(flight)
        try:
            return await self._sender.send(flight.delivery)
        finally:
            flight.over = True
            flight.moved.set()

    async def _moves(self, flight: Flight) -> None:
        """Until it waits for the model again, or is over."""
        await flight.moved.wait()
        flight.moved.clear()
        if flight.over and flight.task:
            await flight.task
            self.flights.remove(flight)
            self.done.append(flight.delivery)
