"""The API's side: who asks, whether they may, what goes wrong, and the answer. In this order."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from worker.sandbox import routes, wire
from worker.sandbox.faults import Fault, FaultPlan
from worker.sandbox.journal import Clock, Entry, Journal, token_label
from worker.sandbox.routes import Action, Route
from worker.sandbox.settings import SandboxSettings
from worker.sandbox.store import Appointments
from worker.sandbox.throttle import Check, Throttle, make_throttle
from worker.sandbox.wire import OK, Answer, problem

_UNAUTHENTICATED = problem(401, "Unauthenticated.")
_FORBIDDEN = problem(403, "This action is unauthorized.")
_NOT_FOUND = problem(404, "Not Found.")
_WRONG_METHOD = problem(405, "Method Not Allowed.")
_TOO_LARGE = problem(413, "The body is too large.")

_NOT_DONE = {
    Fault.HTTP_500: problem(500, "Server Error"),
    Fault.HTTP_502: problem(502, "Bad Gateway"),
    Fault.HTTP_503: problem(503, "Service Unavailable"),
}
_GATEWAY_TIMEOUT = problem(504, "Gateway Timeout")


@dataclass(slots=True)
class _Call:
    """One request on its way through."""

    request: web.Request
    route: Route
    entry: Entry
    headers: dict[str, str]
    refusal: Answer | None
    """What the token or the throttle has against it."""
    fault: Fault | None
    delay_s: float
    body: Any = routes.NOT_JSON


class Api:
    """Answers the requests below `/v1`. The state outlives the server that calls `handle`."""

    def __init__(self, settings: SandboxSettings, appointments: Appointments, journal: Journal, clock: Clock) -> None:
        self._settings = settings
        self._appointments = appointments
        self._journal = journal
        self._clock = clock
        self._throttles: dict[str, Throttle] = {}
        self._running: set[asyncio.Task[Any] | None] = set()
        self._late: dict[Entry, asyncio.TimerHandle] = {}
        # Of its own, so that the latency does not move the faults' row of numbers.
        self._jitter = random.Random(settings.seed)  # noqa: S311 - guards nothing
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

    async def stop(self) -> None:
        """Ends what would outlive the server: requests whose clients have gone, and updates that are yet to land."""
        running = [task for task in self._running if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for entry, timer in self._late.items():
            timer.cancel()
            self._journal.settle(entry)
        self._late.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request. Called when its head is in; the body may still be on its way."""
        call = self._received(request)
        entry = call.entry
        task = asyncio.current_task()
        self._running.add(task)
        try:
            answer = await self._take_in(call) or call.refusal
            if answer is not None:
                await _sleep(call.delay_s)
            else:
                answer = await self._perform(call)
            return await self._respond(call, answer)
        except OSError:
            # The client went away in the middle of its body or of our answer.
            return web.Response()
        finally:
            self._running.discard(task)
            if entry.answered_at is None:
                entry.answered_at = self._clock.now()
            if entry not in self._late:
                self._journal.settle(entry)

    def _received(self, request: web.Request) -> _Call:
        """Judges the head. Awaits nothing, so that throttle and faults follow the order of arrival."""
        now = self._clock.now()
        route = routes.find_route(request.method, request.rel_url.raw_path)
        token = _bearer(request)
        label = self._labels.get(token) if token is not None else None
        entry = self._journal.begin(
            method=request.method,
            appointment=route.appointment,
            token=label or (token and token_label(token)),
            received_at=now,
        )
        headers: dict[str, str] = {}
        refusal: Answer | None = None
        if token is None or label is None:
            refusal = _UNAUTHENTICATED
        else:
            check = self._throttle(token).check(now)
            entry.throttled = not check.allowed
            entry.remaining = check.remaining
            headers["X-RateLimit-Limit"] = str(self._settings.limit)
            headers["X-RateLimit-Remaining"] = str(check.remaining)
            if not check.allowed:
                refusal = _throttled(check)
            elif token in self._forbidden:
                refusal = _FORBIDDEN
        fault = self.faults.draw() if refusal is None else None
        entry.fault = fault
        delay_s = max(0.0, self._latency_s + self._jitter.uniform(-self._jitter_s, self._jitter_s))
        return _Call(request, route, entry, headers, refusal, fault, delay_s)

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

    async def _take_in(self, call: _Call) -> Answer | None:
        """Reads the body."""
        if call.request.body_exists:
            try:
                raw = await call.request.read()
            except web.HTTPRequestEntityTooLarge:
                return _TOO_LARGE
            call.body = routes.read_body(raw)
            call.entry.body = raw.decode(errors="replace") if call.body is routes.NOT_JSON else call.body
        return None

    async def _perform(self, call: _Call) -> Answer | None:
        """What becomes of a request that was let in; None when the connection is to be reset."""
        fault = call.fault
        slow = fault is Fault.SLOW
        await _sleep(self._settings.slow_s if slow else call.delay_s / 2)
        answer: Answer | None
        if fault in _NOT_DONE:
            answer = _NOT_DONE[fault]
        elif fault is Fault.RESET_BEFORE:
            answer = None
        elif fault is Fault.LATE_APPLY:
            self._apply_later(call)
            answer = _GATEWAY_TIMEOUT
        else:
            answer = self._carry_out(call)
            if fault is Fault.RESET_AFTER:
                answer = None
            elif fault in (Fault.GARBLED, Fault.NO_CONTENT) and answer.status != OK:
                # These two stand in for a success; a refusal stays what it is.
                call.entry.fault = None
        await _sleep(0.0 if slow else call.delay_s / 2)
        return answer

    def _carry_out(self, call: _Call) -> Answer:
        now = self._clock.now()
        action, appointment = call.route.action, call.route.appointment
        answer = _NOT_FOUND
        if action is Action.WRONG_METHOD:
            answer = _WRONG_METHOD
        elif action is Action.LIST:
            request = call.request
            answer = routes.list_page(self._appointments, request.query, str(request.url.with_query(None)))
        elif action is Action.READ and appointment is not None:
            answer = routes.read(self._appointments, appointment, now)
        elif action is Action.UPDATE and appointment is not None:
            answer = routes.update(self._appointments, appointment, call.body, now)
            if answer.status == OK:
                call.entry.applied_at = now
        return answer

    def _apply_later(self, call: _Call) -> None:
        def land() -> None:
            del self._late[call.entry]
            self._carry_out(call)
            self._journal.settle(call.entry)

        self._late[call.entry] = asyncio.get_running_loop().call_later(self._settings.late_s, land)

    async def _respond(self, call: _Call, answer: Answer | None) -> web.StreamResponse:
        request, entry = call.request, call.entry
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
            return await wire.send_cut(request, answer, call.headers)
        return wire.garbled(call.headers) if entry.fault == Fault.GARBLED else wire.whole(answer, call.headers)


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
