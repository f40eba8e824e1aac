"""One run: an account, its workers and writers, its API, and the steps that concern several of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from tests.model.api import Api, Fate
from tests.model.audit import Audit
from tests.model.leases import EDGE_S
from tests.model.ledger import Change, Kind, saying
from tests.model.people import People
from tests.model.wire import Flight, Request
from tests.model.workers import Surroundings, Worker
from tests.model.writers import Writers
from worker.store import Outlook

# How often a drain may look for work before it is taken for one that never ends.
ROUNDS_MAX = 200
# Where every change that is left is a bad one, the account is paused for it, and probed, until another one is accepted.
# As where a clinic goes on working, there is another one now and then.
NEWS_EVERY = 10
CLAIMS_AT_ONCE = 3
# A slow answer comes when half of a request's time is over, so late that a retry has less time than it.
SLOW_S = 20.0


@dataclass(slots=True, eq=False, kw_only=True)
class Run:
    """Everybody, and what is on the wire between them."""

    around: Surroundings
    control: asyncpg.Connection
    api: Api
    writers: Writers
    people: People
    audit: Audit
    chance: random.Random
    hostile: bool
    workers: list[Worker] = field(default_factory=list)
    attempts_of_the_dead: int = 0
    _names: itertools.count[int] = field(default_factory=itertools.count)

    def hire(self) -> None:
        """One more worker."""
        self.workers.append(Worker(f"worker-{next(self._names)}", self.around, self.chance))

    async def replace(self, worker: Worker) -> None:
        """It dies, and another one starts."""
        await worker.die()
        self.attempts_of_the_dead += worker.store.attempts
        self.workers.remove(worker)
        self.hire()

    # -- what is on the wire -----------------------------------------------------------------------------------------

    @property
    def connecting(self) -> list[tuple[Worker, Flight]]:
        """Requests that wait for a connection."""
        return [
            (worker, flight)
            for worker in self.workers
            for flight in worker.flights
            if flight.request and not flight.request.sent
        ]

    @property
    def open(self) -> list[Request]:
        """Requests whose makers still wait, and that the API has not answered."""
        return [r for r in self._under_way if r.reply is None and r.given_up_at is None]

    @property
    def unreceived(self) -> list[Request]:
        """Those of them that the API does not know of yet."""
        return [request for request in self.open if not request.received]

    @property
    def loose(self) -> list[Request]:
        """Requests that nobody waits for any more, and that may take effect nevertheless."""
        return [r for r in self._under_way if r.reply is not None or r.given_up_at is not None]

    @property
    def _under_way(self) -> list[Request]:
        return [request for request in self.around.on_wire if request.sent and not request.over]

    async def pass_time(self, seconds: float) -> None:
        """What is under way meanwhile lands when it can no more be later, or never."""
        clock, timeout_s = self.around.clock, self.around.settings.api.timeout_s
        until = clock.now() + seconds
        for request in sorted(self._under_way, key=lambda request: request.lands_until(timeout_s)):
            last = request.lands_until(timeout_s) - EDGE_S
            if last <= until:
                await clock.move_to(self.control, last)
                self.api.land(request, in_time=self.hostile)
        await clock.move_to(self.control, until)

    async def set_out(self, worker: Worker) -> None:
        """Takes in and claims what there is, and begins to send it."""
        await worker.take_in()
        await worker.claim(CLAIMS_AT_ONCE)
        while worker.waiting:
            await worker.start()

    async def deliver(self, worker: Worker, flight: Flight, fate: Fate, *, after: float = 0.0) -> None:
        """A request finds a connection and meets its fate, after so many seconds, and its maker hears what there is."""
        await worker.connect(flight)
        if after:
            await self.pass_time(after)
        request = flight.request
        if request and request.sent and not request.over:
            self.api.meet(request, fate)
            await worker.hear()

    async def round(self, worker: Worker, fates: Sequence[Fate], *, slow: bool) -> None:
        """It hears what there is, takes in, claims, sends, and writes back what is over; the first request meets the
        first fate, and so on."""
        await worker.hear()
        await self.set_out(worker)
        for fate in fates:
            flight = next((flight for flight in worker.flights if flight.request and not flight.request.sent), None)
            if flight:
                await self.deliver(worker, flight, fate, after=SLOW_S if slow else 0.0)
        await worker.write_back()

    # -- the end -----------------------------------------------------------------------------------------------------

    async def go_well(self) -> None:
        """Every worker does what it can, and the API takes all of it."""
        for worker in self.workers:
            await worker.hear()
            await self.set_out(worker)
            await self._get_done(worker)

    async def drain(self) -> None:
        """Until nothing is due any more."""
        await self.writers.end_all(commit=True)
        await self.people.resume()
        for worker in self.workers:
            await self._get_done(worker)
        outlook: Outlook | None = None
        for rounds in itertools.count():
            assert rounds < ROUNDS_MAX + 5 * len(self.audit.ledger.committed), f"it never ends: {outlook}"
            if outlook and outlook.pause_kind == "rejected" and rounds % NEWS_EVERY == 0:
                await self._write_something_good(rounds)
            worker = self.workers[rounds % len(self.workers)]
            await self.set_out(worker)
            if not worker.idle:
                await self._get_done(worker)
                await self.audit.meanwhile()
                continue
            (outlook,) = await worker.store.outlook([self.around.account])
            if not outlook.waits:
                break
            ready_in_s = outlook.ready_in_s
            assert ready_in_s is not None, f"something waits, and nothing is in sight: {outlook}"
            await self.pass_time(max(0.001, ready_in_s))
        await self.pass_time(10 * self.around.settings.api.timeout_s)
        attempts = self.attempts_of_the_dead + sum(worker.store.attempts for worker in self.workers)
        await self.audit.meanwhile()
        await self.audit.after_a_drain(attempts=attempts)

    async def close(self) -> None:
        """Nobody is left who could go on."""
        for worker in self.workers:
            await worker.die()
        await self.writers.give_up()

    async def _write_something_good(self, number: int) -> None:
        says = saying(1_000_000 + number, {"note": False}, Kind.GOOD)
        await self.writers.insert(self.writers.all[0], Change("app_z", says, Kind.GOOD, "live"))
        await self.writers.end(self.writers.all[0], commit=True)

    async def _get_done(self, worker: Worker) -> None:
        while worker.waiting:
            await worker.start()
        while worker.flights:
            for flight in list(worker.flights):
                if flight.request and not flight.request.sent:
                    await worker.connect(flight)
            requests = [flight.request for flight in worker.flights if flight.request and flight.request.sent]
            for request in requests:
                if request.reply is None and not request.over:
                    self.api.meet(request, Fate.DONE)
            if any(request.reply is None for request in requests):
                # What it waits for never comes.
                await self.pass_time(self.around.settings.api.timeout_s)
            await worker.hear()
        await worker.write_back()
