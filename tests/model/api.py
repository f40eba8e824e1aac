"""The API: the sandbox's throttles and appointments, called in simulated time, and the faults that the model draws.

It judges what it sees: the budget by both readings of the throttle, overlap and order for each appointment, which are
rules 2 and 4.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import aiohttp

from tests.model.leases import Leases
from tests.model.ledger import Kind, Ledger, as_answered
from tests.model.wire import Reply, Request
from worker.sandbox import Appointments, routes
from worker.sandbox.throttle import make_throttle
from worker.sandbox.wire import OK, Answer, problem


@dataclass(frozen=True, slots=True)
class _Lot:
    """What befalls a request. `status` None: no answer. `loose`: it may still take effect."""

    status: int | None
    received: bool = True
    applied: bool = False
    loose: bool = False
    body: bytes | None = None
    cut: bool = False
    reset: bool = False


class Fate(Enum):
    """What becomes of a request, by what the client sees and what the API does."""

    DONE = _Lot(OK, applied=True)
    NOT_DONE_500 = _Lot(500)
    NOT_DONE_503 = _Lot(503)
    NO_CONTENT = _Lot(204, applied=True, body=b"")
    GARBLED = _Lot(OK, applied=True, body=b'{"id": "app_')
    CUT = _Lot(OK, applied=True, cut=True)
    GATEWAY_502 = _Lot(502, loose=True)
    GATEWAY_504 = _Lot(504, loose=True)
    RESET_BEFORE = _Lot(None, received=False, reset=True)
    RESET_ON_THE_WAY = _Lot(None, received=False, loose=True, reset=True)
    RESET_AFTER = _Lot(None, applied=True, reset=True)
    SILENCE = _Lot(None, applied=True)
    LOST = _Lot(None, received=False)
    HANGS = _Lot(None, received=False, loose=True)
    TOKEN_401 = _Lot(401)
    FORBIDDEN_403 = _Lot(403)
    STRANGER_429 = _Lot(429)


FAULTS_OF_THE_ACCOUNT = (Fate.TOKEN_401, Fate.FORBIDDEN_403, Fate.STRANGER_429)
LOOSE = tuple(fate for fate in Fate if fate.value.loose)


class Api:
    """What stands at the other end of the wire."""

    def __init__(
        self,
        *,
        limit: int,
        window_s: float,
        timeout_s: float,
        folds: bool,
        ledger: Ledger,
        leases: Leases,
        now: Callable[[], float],
    ) -> None:
        """`folds`: whether the workers send all changes of an appointment together."""
        self._folds = folds
        self._throttles = [make_throttle(name, limit=limit, window_s=window_s) for name in ("rolling", "fixed")]
        self._timeout_s = timeout_s
        self._ledger = ledger
        self._leases = leases
        self._now = now
        self.appointments = Appointments()
        self.setters: dict[str, dict[str, int]] = defaultdict(dict)
        """Which change the API took each field from."""
        self.applied: set[int] = set()
        self.doubts: list[tuple[str, str, int, int]] = []
        """Appointment, field, and the change that was written over a newer one: right only if that was given up."""

    def meet(self, request: Request, fate: Fate) -> None:
        """A request meets its fate. What its client gets to see lies in `request.reply` then."""
        lot = fate.value
        answer = problem(lot.status or 0, "so it is")
        if lot.received and not request.received:
            self._receive(request)
        if lot.applied:
            answer = self._apply(request)
        request.over = not lot.loose
        if lot.reset:
            request.reply = Reply(error=aiohttp.ServerDisconnectedError())
        elif lot.status is not None:
            request.reply = self._reply(lot, answer, fate)

    def receive(self, request: Request) -> None:
        """A request comes in, and is not done yet."""
        self._receive(request)

    def land(self, request: Request, *, in_time: bool = True) -> None:
        """What was given up takes effect after all; or never will, when it was not in time."""
        if in_time:
            if not request.received:
                self._receive(request)
            self._apply(request)
        request.over = True

    def _receive(self, request: Request) -> None:
        now, claim = self._now(), request.claim
        name = claim.appointment_id
        assert not request.received
        request.received = True
        for throttle in self._throttles:
            check = throttle.check(now)
            assert check.allowed, f"request {request.number} is more than the limit: {type(throttle).__name__}"
        late_s = now - request.lands_until(self._timeout_s)
        assert self._leases.covers(claim, now), f"request {request.number} came in when its lease was over"
        assert late_s <= 0, f"request {request.number} went out {late_s:.0f} s later than it may come in"
        for other in self._leases.on_wire:
            if other is not request and other.claim.appointment_id == name:
                assert not other.sent or other.over, f"{name}: {other.number} was not over when {request.number} came"
        for number in request.says:
            assert number in self._ledger.committed, f"change {number} was sent and never committed"
            assert self._ledger.committed[number].kind is not Kind.BREACH, f"change {number} breaks the contract"

    def _apply(self, request: Request) -> Answer:
        name = request.claim.appointment_id
        assert self._leases.covers(request.claim, self._now()), f"request {request.number} was done after its lease"
        answer = routes.update(self.appointments, name, request.body, self._now())
        if answer.status != OK:
            return answer
        setters = self.setters[name]
        for field, value in request.body.items():
            by = max((n for n, says in request.says.items() if says.get(field, request) == value), default=0)
            assert by, f"{name}.{field}: nobody wrote {value!r}"
            last = setters.get(field, 0)
            # A fold that is sent in parts, since one of its changes is refused, goes over what it has sent before.
            # So do changes that were given up, brought back, and go one by one.
            if by < last and request.claim.part_size is None and self._folds:
                self.doubts.append((name, field, by, last))
            setters[field] = by
            assert self.appointments[name][field] == as_answered(field, value)
        self.applied.update(request.says)
        return answer

    def _reply(self, lot: _Lot, answer: Answer, fate: Fate) -> Reply:
        status, body = lot.status or 0, answer.body()
        if lot.applied and answer.status != OK:
            return Reply(status=answer.status, body=body)  # a refusal stays what it is
        if lot.body is not None:
            body = lot.body
        headers = [("Retry-After", "20")] if fate is Fate.STRANGER_429 else []
        return Reply(status=status, headers=headers, body=body[: len(body) // 2] if lot.cut else body, cut=lot.cut)
