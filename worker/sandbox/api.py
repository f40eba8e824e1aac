"""The API's side: who asks, whether they may, what goes wrong, and the answer. In this order."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Collection

from aiohttp import web

from worker.sandbox import routes, wire
from worker.sandbox.faults import Fault, FaultPlan, Strike
from worker.sandbox.journal import Clock, Entry, Journal, token_label
from worker.sandbox.routes import Action, Route
from worker.sandbox.settings import SandboxSettings
from worker.sandbox.store import Appointments
from worker.sandbox.throttle import Check, Throttle, make_throttle
from worker.sandbox.wire import Answer, problem

_UNAUTHENTICATED = problem(401, "Unauthenticated.")
_FORBIDDEN = problem(403, "This action is unauthorized.")
_TOO_LARGE = problem(413, "The body is too large.")

_NOT_DONE = {
    Fault.HTTP_500: problem(500, "Server Error"),
    Fault.HTTP_502: problem(502, "Bad Gateway"),
    Fault.HTTP_503: problem(503, "Service Unavailable"),
}
_GATEWAY_TIMEOUT = problem(504, "Gateway Timeout")


class Api:
    """Answers the requests below `/v1`. The state outlives the server that calls `handle`."""

    def __init__(self, settings: SandboxSettings, appointments: Appointments, journal: Journal, clock: Clock) -> None:
        self._settings = settings
        self._appointments = appointments
        self._journal = journal
        self._clock = clock
        self._throttles: dict[str, Throttle] = {}
        self._late: dict[Entry, asyncio.TimerHandle] = {}
        # Of its own, so that the latency does not move the faults' row of numbers.
        self._jitter = random.Random(settings.seed)
        self.faults = FaultPlan(settings.faults, settings.seed)
        self.set_tokens(settings.tokens, settings.forbidden)
        self.set_latency(settings.latency_s, settings.latency_jitter_s)

    def set_tokens(self, accepted: Collection[str], forbidden: Collection[str] = ()) -> None:
        """Other tokens from the next request on. What a token has used stays counted."""
        self._labels = {token: token_label(token) for token in (*accepted, *forbidden)}
        self._forbidden = frozenset(forbidden)

    def set_latency(self, latency_s: float, jitter_s: float = 0.0) -> None:
        """How long answers take from the next request on, in seconds; ValueError for what is not 0 or more."""
        if not (0 <= latency_s < math.inf and 0 <= jitter_s < math.inf):
            raise ValueError("latency_s and latency_jitter_s must be numbers, 0 or more")
        self._latency_s = latency_s
        self._jitter_s = jitter_s

    def drop_late(self) -> None:
        """Forgets the updates that are yet to land: the server stops."""
        for entry, timer in self._late.items():
            timer.cancel()
            self._journal.settle(entry)
        self._late.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request. Called when its head is in; the body may still be on its way."""
        received_at = self._clock.now()
        route = routes.find_route(request.method, request.rel_url.raw_path)
        token = _bearer(request)
        label = self._labels.get(token) if token is not None else None
        entry = self._journal.begin(
            method=request.method,
            appointment=route.appointment,
            token=label or (token and token_label(token)),
            received_at=received_at,
        )
        if token is None or label is None:
            return await self._exchange(request, route, entry, _UNAUTHENTICATED, {})

        check = self._throttle(token).check(received_at)
        entry.throttled = not check.allowed
        entry.remaining = check.remaining
        headers = {"X-RateLimit-Limit": str(self._settings.limit), "X-RateLimit-Remaining": str(check.remaining)}
        refusal = _throttled(check) if not check.allowed else _FORBIDDEN if token in self._forbidden else None
        return await self._exchange(request, route, entry, refusal, headers)

    def _throttle(self, token: str) -> Throttle:
        throttle = self._throttles.get(token)
        if throttle is None:
            settings = self._settings
            throttle = self._throttles[token] = make_throttle(
                settings.throttle,
                limit=settings.limit,
                window_s=settings.window_s,
                whole_seconds=settings.whole_seconds,
            )
        return throttle

    async def _exchange(
        self, request: web.Request, route: Route, entry: Entry, refusal: Answer | None, headers: dict[str, str]
    ) -> web.StreamResponse:
        # Drawn before anything is awaited: faults follow the order of arrival, whatever takes how long.
        strike = self.faults.draw() if refusal is None else None
        delay_s = max(0.0, self._latency_s + self._jitter.uniform(-self._jitter_s, self._jitter_s))
        try:
            answer = await self._take_in(request, entry) or refusal
            if answer is not None:
                await _sleep(delay_s)
            else:
                answer = await self._perform(request, route, entry, strike, delay_s)
            return await self._respond(request, entry, answer, headers)
        except OSError:
            # The client went away in the middle of its body or of our answer.
            return web.Response()
        finally:
            if entry.answered_at is None:
                entry.answered_at = self._clock.now()
            if entry not in self._late:
                self._journal.settle(entry)

    async def _take_in(self, request: web.Request, entry: Entry) -> Answer | None:
        """Reads the body into the entry."""
        if not request.body_exists:
            return None
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _TOO_LARGE
        body = routes.read_body(raw)
        entry.body = raw.decode(errors="replace") if body is routes.NOT_JSON else body
        return None

    async def _perform(
        self, request: web.Request, route: Route, entry: Entry, strike: Strike | None, delay_s: float
    ) -> Answer | None:
        """What becomes of a request that may come in; None when the connection is to be reset."""
        fault = strike.fault if strike is not None else None
        entry.fault = fault
        slow = fault is Fault.SLOW
        await _sleep(self._settings.slow_s if slow else delay_s / 2)
        answer: Answer | None
        if fault in _NOT_DONE:
            answer = _NOT_DONE[fault]
        elif fault is Fault.RESET_BEFORE:
            answer = None
        elif strike is not None and fault is Fault.LATE_APPLY:
            self._apply_later(request, route, entry)
            answer = _GATEWAY_TIMEOUT if strike.by_gateway else None
        else:
            answer = self._carry_out(request, route, entry)
            if fault is Fault.RESET_AFTER:
                answer = None
            elif answer.status != 200 and fault in (Fault.GARBLED, Fault.NO_CONTENT):
                # These two stand in for a success; a refusal stays what it is.
                entry.fault = None
        await _sleep(0.0 if slow else delay_s / 2)
        return answer

    def _carry_out(self, request: web.Request, route: Route, entry: Entry) -> Answer:
        now = self._clock.now()
        appointment = route.appointment
        if route.action is Action.UPDATE and appointment is not None:
            body = entry.body if request.body_exists else routes.NOT_JSON
            answer = routes.update(self._appointments, appointment, body, now)
            if answer.status == 200:
                entry.applied_at = now
            return answer
        if route.action is Action.READ and appointment is not None:
            return routes.read(self._appointments, appointment, now)
        if route.action is Action.LIST:
            return routes.list_page(self._appointments, request.query, str(request.url.with_query(None)))
        return problem(405, "Method Not Allowed.") if route.action is Action.WRONG_METHOD else problem(404, "Not Found.")

    def _apply_later(self, request: web.Request, route: Route, entry: Entry) -> None:
        def land() -> None:
            del self._late[entry]
            self._carry_out(request, route, entry)
            self._journal.settle(entry)

        self._late[entry] = asyncio.get_running_loop().call_later(self._settings.late_s, land)

    async def _respond(
        self, request: web.Request, entry: Entry, answer: Answer | None, headers: dict[str, str]
    ) -> web.StreamResponse:
        # Before the write: whatever a client does with an answer comes later than this.
        entry.answered_at = self._clock.now()
        if answer is None:
            return wire.reset(request)
        if wire.is_gone(request):
            return web.Response()
        if entry.fault == Fault.NO_CONTENT:
            answer = Answer(204)
        entry.http_status = answer.status
        if entry.fault == Fault.CUT:
            return await wire.send_cut(request, answer, headers)
        return wire.garbled(headers) if entry.fault == Fault.GARBLED else wire.whole(answer, headers)


def _throttled(check: Check) -> Answer:
    headers = {
        "Retry-After": str(math.ceil(check.retry_after_s)),
        "X-RateLimit-Reset": str(math.ceil(check.reset_at)),
    }
    return Answer(429, {"message": "Too Many Attempts."}, headers)


def _bearer(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
