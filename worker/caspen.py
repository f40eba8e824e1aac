"""The HTTP client: one request, one Outcome. Nothing else speaks HTTP; what an answer means is said in `answers`.

Whatever the network or the API does, `send` returns an Outcome; it raises only when it is cancelled.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from pydantic_core import to_json
from yarl import URL

from worker import __version__, clock
from worker.answers import ANSWER_MAX_BYTES, CUT_SHORT, TOO_LONG, Answer, budget, date_told, understood, wants_body
from worker.contract import check_appointment_id
from worker.outcome import Exchange, NotSent, Outcome, Unknown
from worker.records import record
from worker.tls import client_context


class TooLate(Exception):
    """The deadline left no room to start a request."""


class SentBefore(Exception):
    """aiohttp is about to send the request a second time: it does so with a GET whose connection broke, unasked."""


class SpokeFirst(aiohttp.ClientConnectionError):
    """The server said something on an idle connection: whatever it is, it answers nothing that we are about to ask."""


@record
class Request:
    """What there is to say about one appointment."""

    method: str
    url: URL
    data: bytes | None = field(default=None, repr=False)


@dataclass(slots=True)
class _Attempt:
    """What became of one request so far."""

    deadline: float
    sent: bool = False
    limit: int | None = None
    remaining: int | None = None
    date_s: float | None = None


# The request that the running task makes, for the connector, which aiohttp tells of none.
_attempt: ContextVar[_Attempt] = ContextVar("attempt")


class _Connector(aiohttp.TCPConnector):
    """Hands out a connection at the last moment at which nothing was sent, and only while the request may still be.

    What aiohttp does next, without giving way to anything else, is to write the headers. None is handed out on which
    something was already said: it would be taken for the next request's answer. A proxy's CONNECT is over by then.
    """

    def __init__(self, *, now: Callable[[], float], **options: Any) -> None:
        super().__init__(**options)
        self._now = now

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        connection = await super().connect(*args, **kwargs)
        attempt = _attempt.get()
        problem: Exception | None = None
        if connection.protocol is None or connection.protocol.should_close:
            problem = SpokeFirst()
        elif attempt.sent:
            problem = SentBefore()
        elif self._now() >= attempt.deadline:
            problem = TooLate()
        if problem:
            connection.close()
            raise problem
        attempt.sent = True
        return connection


_ascii = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

# An id that no appointment has: whoever asks for it is told whether the token is accepted, and nothing about anybody.
NOBODY = "caspen-sync-check"


class Caspen:
    """Speaks to the API. One instance serves all accounts of a process, over one shared session."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float,
        ca_file: Path | None = None,
        proxy: str | None = None,
        now: Callable[[], float] = clock.now,
    ) -> None:
        """`ca_file` holds the certificates to trust instead of the system's, for the API and for an https:// proxy;
        ConfigError when it holds none. `proxy` is the URL of a proxy to go through, by CONNECT."""
        self._url = URL(base_url, encoded=True)
        self._path = self._url.raw_path.rstrip("/")
        self._timeout_s = timeout_s
        self._proxy = proxy
        self._now = now
        # Reading the system's certificates takes a while, and http:// has no use for them; a file is always looked at.
        self._tls = client_context(ca_file) if ca_file or base_url.startswith("https:") else True
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # The engine bounds concurrency; a pool limit would only make requests wait inside their timeout.
            connector=_Connector(now=self._now, limit=0, ssl=self._tls, socket_factory=self._socket),
            # Answers are unpacked by us, up to a limit: a few packed kilobytes can be gigabytes.
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": f"caspen-sync/{__version__}",
            },
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def request(self, appointment_id: str, body: dict[str, Any]) -> Request:
        """The POST of one update. Raises ValueError for an id that would change the path of the request."""
        if problem := check_appointment_id(appointment_id):
            raise ValueError(str(problem))
        return Request(method="POST", url=self._address(appointment_id), data=_encoded(body))

    async def ask(self, *, token: str, deadline: float) -> Exchange:
        """GETs an appointment that nobody has: the cheapest way to learn whether a token is accepted, which a 404 then
        says. It counts against the budget as any request; `deadline` is as for `send`."""
        return await self.send(Request(method="GET", url=self._address(NOBODY)), token=token, deadline=deadline)

    async def send(self, request: Request, *, token: str, deadline: float) -> Exchange:
        """Makes one request.

        `deadline`, by `clock.now()`, is when it has to be over. It is looked at a last time when the first byte is
        about to be written, so that a process that was stopped in between sends nothing.
        """
        attempt = _Attempt(deadline)
        started_at = self._now()
        outcome = await self._outcome(request, token, attempt)
        return Exchange(
            outcome=outcome,
            started_at=started_at,
            ended_at=self._now(),
            limit=attempt.limit,
            remaining=attempt.remaining,
            date_s=attempt.date_s,
        )

    def _address(self, appointment_id: str) -> URL:
        return self._url.with_path(f"{self._path}/appointments/{quote(appointment_id, safe='')}", encoded=True)

    async def _outcome(self, request: Request, token: str, attempt: _Attempt) -> Outcome:
        if self._session is None:
            raise RuntimeError("a Caspen sends only within its `async with`")
        remaining = min(self._timeout_s, attempt.deadline - self._now())
        if remaining <= 0:
            return NotSent(reason="no time left in the claim", late=True)
        _attempt.set(attempt)
        try:
            async with (
                asyncio.timeout(remaining),
                self._session.request(
                    request.method,
                    request.url,
                    data=request.data,
                    headers={"Authorization": f"Bearer {token}"},
                    allow_redirects=False,
                    proxy=self._proxy,
                ) as response,
            ):
                attempt.limit, attempt.remaining = budget(response.status, response.headers)
                attempt.date_s = date_told(response.headers)
                return understood(await _read(response), token=token, wall_s=time.time())
        except TooLate:
            return NotSent(reason="no time left in the claim", late=True)
        except SpokeFirst:
            return NotSent(reason="the server spoke before it was asked; that connection is closed")
        except SentBefore:
            return Unknown(reason="the connection ended without an answer")
        except TimeoutError:
            if attempt.sent:
                return Unknown(reason=f"no answer within {remaining:.3g} s")
            return NotSent(reason=f"no connection within {remaining:.3g} s")
        except Exception as error:  # noqa: BLE001  whatever the client library raises is an outcome
            # Its text can hold the URL or a header; its type and the system's own words hold neither.
            reason = _reason(error)
            return Unknown(reason=reason) if attempt.sent else NotSent(reason=reason)

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket that the system gives up when its data is not acknowledged in time.

        Otherwise a request that was written into a dead network is still delivered when the network comes back, long
        after this process gave it up or died (RFC 5482, the user timeout of TCP).
        """
        family, kind, protocol, _, _ = address
        sock = socket.socket(family=family, type=kind, proto=protocol)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._timeout_s * 1000))
        return sock


def _encoded(body: dict[str, Any]) -> bytes:
    """ASCII, whatever the body holds: not every server knows that JSON is UTF-8."""
    data = to_json(body)
    return data if data.isascii() else _ascii(body).encode()


async def _read(response: aiohttp.ClientResponse) -> Answer:
    """The answer, with as much of its body as anybody wants to know and ANSWER_MAX_BYTES allow."""
    status, headers = response.status, response.headers
    body = bytearray()
    try:
        while wants_body(status) and (chunk := await response.content.readany()):
            body += chunk
            if len(body) > ANSWER_MAX_BYTES:
                response.close()
                return Answer(status=status, headers=headers, fault=TOO_LONG)
    except (aiohttp.ClientError, OSError):
        return Answer(status=status, headers=headers, fault=CUT_SHORT)
    return Answer(status=status, headers=headers, body=bytes(body))


def _reason(error: BaseException) -> str:
    """What broke, in words that hold nothing of the request."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy of api.proxy answered {error.status}"
    cause = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(cause, OSError) or cause.errno is None:
        return type(error).__name__
    # asyncio puts words of its own into strerror; name resolution has negative numbers, and good words of its own.
    words = os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
    return f"{type(error).__name__} ({words})"
