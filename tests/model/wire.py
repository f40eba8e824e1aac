"""The client's side of the wire: the product's own Caspen, with a session beneath it that goes nowhere.

Each request stops twice: before a connection is there, and before its answer. What happens then, and when, the model
says. The look at the deadline before the first byte is the product's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

import aiohttp
from multidict import CIMultiDict

from worker.caspen import Caspen, _attempt, _Connector
from worker.claims import Claim
from worker.sender import Delivery

BASE_URL = "http://127.0.0.1:1/v1"


@dataclass(slots=True, eq=False)
class Reply:
    """What comes back: an answer, or an error in its stead. `cut`: the body breaks off."""

    status: int = 0
    headers: Iterable[tuple[str, str]] = ()
    body: bytes = b""
    cut: bool = False
    error: Exception | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One request. It outlives the worker that made it."""

    number: int
    claim: Claim
    says: dict[int, Any]
    """The changes that it was folded from, by their ids, as they were then."""
    body: dict[str, Any]
    due_at: float
    """When its maker gives it up."""
    connected: asyncio.Future[None]
    answered: asyncio.Future[Reply]
    sent: bool = False
    received: bool = False
    over: bool = False
    """Nothing more becomes of it at the API."""
    reply: Reply | None = None
    """What the API said, when its maker has not heard it yet."""
    given_up_at: float | None = None
    """When its maker heard an answer, an error or nothing for too long, or died."""

    def lands_until(self, timeout_s: float) -> float:
        """Until when it may count, and take effect, at the latest: what the README says of a server's slowness."""
        given_up_at = self.due_at if self.given_up_at is None else min(self.given_up_at, self.due_at)
        return given_up_at + timeout_s


@dataclass(slots=True, eq=False)
class Flight:
    """One delivery on its way."""

    delivery: Delivery
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """It stopped somewhere, or is over."""
    over: bool = False
    task: asyncio.Task[bool] | None = None
    request: Request | None = None


flying: ContextVar[Flight] = ContextVar("flying")


class _Network(aiohttp.TCPConnector):
    """Where a connection comes from when the model says so."""

    async def connect(self, request: Request, *_: Any, **__: Any) -> Any:
        await request.connected
        return SimpleNamespace(protocol=SimpleNamespace(should_close=False), close=lambda: None)


class _ModelConnector(_Connector, _Network):
    """The product's look before the first byte, over that."""


class _Response:
    """As much of aiohttp's response as Caspen reads."""

    def __init__(self, reply: Reply) -> None:
        self.status = reply.status
        self.headers = CIMultiDict(reply.headers)
        self.content = self
        self._chunks = [reply.body, b""]
        self._cut = reply.cut

    async def readany(self) -> bytes:
        if self._cut and len(self._chunks) == 1:
            raise aiohttp.ClientPayloadError
        return self._chunks.pop(0)

    def close(self) -> None:
        pass


class _Going:
    """One request, as `async with session.request(...)` makes it."""

    def __init__(self, session: Session, data: bytes) -> None:
        self._session = session
        self._data = data

    async def __aenter__(self) -> _Response:
        flight, session = flying.get(), self._session
        request = session.begin(flight, self._data, deadline=_attempt.get().deadline)
        flight.moved.set()
        try:
            await session.connector.connect(request)
            request.sent = True
            flight.moved.set()
            reply = await request.answered
        finally:
            request.given_up_at = session.now()
        if reply.error:
            raise reply.error
        return _Response(reply)

    async def __aexit__(self, *_: object) -> None:
        pass


class Session:
    """Stands in for aiohttp's session."""

    def __init__(self, now: Callable[[], float], timeout_s: float, on_wire: list[Request]) -> None:
        """`on_wire`: where its requests are put."""
        self.now = now
        self.connector = _ModelConnector(now=now, limit=0)
        self._timeout_s = timeout_s
        self._on_wire = on_wire

    def request(self, _method: str, _url: object, *, data: bytes, **_: Any) -> _Going:
        return _Going(self, data)

    def begin(self, flight: Flight, data: bytes, *, deadline: float) -> Request:
        loop = asyncio.get_running_loop()
        request = flight.request = Request(
            number=len(self._on_wire),
            claim=flight.delivery.claim,
            says={change.id: change.changes for change in flight.delivery.sound},
            body=json.loads(data),
            due_at=min(self.now() + self._timeout_s, deadline),
            connected=loop.create_future(),
            answered=loop.create_future(),
        )
        self._on_wire.append(request)
        return request


class ModelCaspen(Caspen):
    """The product's client over that session."""

    @classmethod
    def over(cls, session: Session, timeout_s: float) -> Self:
        client = cls(BASE_URL, timeout_s=timeout_s, now=session.now)
        client._session = session
        return client
