"""The control side: what a test asks and tells the sandbox over HTTP. No token, no throttle, loopback only."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from worker.sandbox import wire
from worker.sandbox.api import Api
from worker.sandbox.journal import Journal
from worker.sandbox.routes import NOT_JSON, read_body
from worker.sandbox.store import Appointments
from worker.sandbox.wire import OK, Answer, problem

CONTROL_PATH = "/_sandbox"

_SEQ_DIGITS = 18


class _BadOrderError(ValueError):
    """The body is not what this path takes."""


class Control:
    """Answers the requests below `/_sandbox`. A bad request is answered 400 and changes nothing."""

    def __init__(self, api: Api, appointments: Appointments, journal: Journal) -> None:
        self._api = api
        self._appointments = appointments
        self._journal = journal

    def routes(self) -> list[web.RouteDef]:
        """The paths."""
        return [
            web.get(f"{CONTROL_PATH}/log", self.log),
            web.get(CONTROL_PATH + "/appointments/{appointment:[^/]+}", self.appointment),
            web.put(f"{CONTROL_PATH}/faults", self.faults),
            web.put(f"{CONTROL_PATH}/tokens", self.tokens),
            web.put(f"{CONTROL_PATH}/latency", self.latency),
        ]

    async def log(self, request: web.Request) -> web.Response:
        """The log as JSON Lines; with `since`, only what came after that sequence number."""
        since = request.query.get("since", "0")
        if not (since.isascii() and since.isdecimal() and len(since) <= _SEQ_DIGITS):
            return _answer(problem(400, "since must be a sequence number"))
        lines = "".join(entry.as_line() for entry in self._journal.since(int(since)))
        return web.Response(text=lines, content_type="application/x-ndjson")

    async def appointment(self, request: web.Request) -> web.Response:
        """An appointment's state; 404 if nobody has touched it yet."""
        resource = self._appointments.get(request.match_info["appointment"])
        return _answer(problem(404, "No such appointment.") if resource is None else Answer(OK, resource))

    async def faults(self, request: web.Request) -> web.Response:
        """Replaces the probabilities: `{"http_500": 0.1}`; `{}` ends all faults."""
        try:
            self._api.faults.replace(await _order(request))
        except ValueError as error:
            return _answer(problem(400, str(error)))
        return _answer(Answer(OK, self._api.faults.probabilities))

    async def tokens(self, request: web.Request) -> web.Response:
        """Replaces the tokens: `{"accepted": ["…"], "forbidden": ["…"]}`; what is left out is empty."""
        try:
            order = await _order(request, "accepted", "forbidden")
            accepted, forbidden = _texts(order, "accepted"), _texts(order, "forbidden")
        except ValueError as error:
            return _answer(problem(400, str(error)))
        self._api.set_tokens(accepted, forbidden)
        return _answer(Answer(OK, {"accepted": len(accepted), "forbidden": len(forbidden)}))

    async def latency(self, request: web.Request) -> web.Response:
        """Replaces the latency: `{"latency_s": 0.2, "latency_jitter_s": 0.1}`; what is left out is 0."""
        try:
            order = await _order(request, "latency_s", "latency_jitter_s")
            latency_s, jitter_s = _number(order, "latency_s"), _number(order, "latency_jitter_s")
            self._api.set_latency(latency_s, jitter_s)
        except ValueError as error:
            return _answer(problem(400, str(error)))
        return _answer(Answer(OK, {"latency_s": latency_s, "latency_jitter_s": jitter_s}))


async def _order(request: web.Request, *keys: str) -> dict[str, Any]:
    """The body as a JSON object, with none but these keys if any are given."""
    order = read_body(await request.read())
    if order is NOT_JSON or not isinstance(order, dict):
        raise _BadOrderError("the body must be a JSON object")
    if keys and not order.keys() <= set(keys):
        raise _BadOrderError(f"the keys are {', '.join(keys)}")
    return order


def _texts(order: dict[str, Any], key: str) -> list[str]:
    texts = order.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise _BadOrderError(f"{key} must be an array of strings")
    return texts


def _number(order: dict[str, Any], key: str) -> float:
    number = order.get(key, 0.0)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise _BadOrderError(f"{key} must be a number")
    return float(number)


def _answer(answer: Answer) -> web.Response:
    return wire.whole(answer, {})
