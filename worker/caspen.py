"""The HTTP client: one request, one Outcome. Nothing else speaks HTTP or looks at a status code.

Whatever the network or the API does, `send` returns an Outcome; it raises only when it is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable
from types import SimpleNamespace, TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from pydantic import ValidationError
from yarl import URL

from worker import __version__, clock
from worker.contract import UPDATE_FIELDS, AppointmentResource, check_appointment_id
from worker.outcome import Exchange, NotSent, Outcome, Refused, Rejected, Retry, Synced, Throttled, Unknown

ANSWER_MAX_BYTES = 1_048_576

# What a gateway says when it does not know what became of the request behind it. 52x are a large gateway's own.
_GATEWAY = {502, 504, *range(520, 528)}
_NOT_DONE = {408, 425, 500, 503}
_THE_ADDRESS = {404, 405, 410}

_MEANING = {
    400: "cannot be processed",
    401: "token missing or invalid",
    403: "token not allowed to do this",
    404: "not found: no such appointment, or api.base_url is wrong",
    409: "conflicts with the current state",
    422: "validation failed",
    500: "server-side fault",
    502: "upstream fault",
    503: "temporarily unavailable",
}


class TooLate(Exception):
    """The deadline left no room to start a request."""


class Caspen:
    """Speaks to the API. One instance serves all accounts of a process, over one shared session."""

    def __init__(self, base_url: str, *, timeout_s: float, now: Callable[[], float] = clock.now) -> None:
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(self._about_to_write)
        self._session = aiohttp.ClientSession(
            # The engine bounds concurrency; a pool limit would only make requests wait inside their timeout.
            connector=aiohttp.TCPConnector(limit=0, socket_factory=self._socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": f"caspen-sync/{__version__}",
            },
            trace_configs=[trace],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, appointment_id: str, body: dict[str, Any], *, token: str, deadline: float) -> Exchange:
        """POSTs one update.

        `deadline`, by `clock.now()`, is when the request has to be over. It is looked at a last time when the first
        byte is about to be written, so that a process that was stopped in between sends nothing.
        """
        started_at = self._now()
        state = SimpleNamespace(sent=False, deadline=deadline, limit=None, remaining=None)
        if problem := check_appointment_id(appointment_id):
            outcome: Outcome = NotSent(reason=str(problem))
        else:
            outcome = await self._exchange(appointment_id, body, token, state)
        return Exchange(
            outcome=outcome,
            started_at=started_at,
            ended_at=self._now(),
            limit=state.limit,
            remaining=state.remaining,
        )

    async def _exchange(self, appointment_id: str, body: dict[str, Any], token: str, state: SimpleNamespace) -> Outcome:
        if self._session is None:
            raise RuntimeError("a Caspen sends only within its `async with`")
        remaining = min(self._timeout_s, state.deadline - self._now())
        if remaining <= 0:
            return NotSent(reason="no time left in the claim")
        try:
            url = URL(f"{self._base_url}/appointments/{quote(appointment_id, safe='')}", encoded=True)
            async with (
                asyncio.timeout(remaining),
                self._session.post(
                    url,
                    data=json.dumps(body, separators=(",", ":")).encode(),
                    headers={"Authorization": f"Bearer {token}"},
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                    trace_request_ctx=state,
                ) as response,
            ):
                state.limit = _count(response, "X-RateLimit-Limit")
                state.remaining = _count(response, "X-RateLimit-Remaining")
                return await self._understand(response)
        except TooLate:
            return NotSent(reason="no time left in the claim")
        except TimeoutError:
            if state.sent:
                return Unknown(reason=f"no answer within {remaining:.3g} s")
            return NotSent(reason=f"no connection within {remaining:.3g} s")
        except Exception as error:  # noqa: BLE001  whatever the client library raises is an outcome
            # Its text can hold the URL or a header; its type and the system's own words hold neither.
            reason = _reason(error)
            return Unknown(reason=reason) if state.sent else NotSent(reason=reason)

    async def _understand(self, response: aiohttp.ClientResponse) -> Outcome:
        status = response.status
        reason = f"{status} {_MEANING.get(status, 'unexpected status')}"
        if 200 <= status < 300:
            return await self._resource(response)
        if status == 429:
            return Throttled(status=status, hints_s=_hints(response))
        if status in (401, 403):
            return Refused(status=status, reason=reason)
        if status in _NOT_DONE:
            return Retry(status=status, reason=reason)
        if status in _GATEWAY:
            return Unknown(status=status, reason=reason)
        if 300 <= status < 400:
            return Rejected(status=status, reason=f"{status} redirect, which is not followed", whole=True)
        if 400 <= status < 500:
            fields = await _fields_named(response)
            named = f": {', '.join(fields)}" if fields else ""
            return Rejected(status=status, reason=reason + named, whole=status in _THE_ADDRESS)
        # Whatever else a server may say (501, 505, 599) tells nothing about the update.
        return Unknown(status=status, reason=reason)

    async def _resource(self, response: aiohttp.ClientResponse) -> Outcome:
        """A 2xx means that the update is done; without a resource it is sent again, to learn what came of it."""
        status = response.status
        try:
            text = (await _read(response)).decode("utf-8")
        except _TooLarge:
            return Retry(status=status, reason=f"{status} with an answer of more than {ANSWER_MAX_BYTES} bytes")
        except UnicodeDecodeError:
            return Retry(status=status, reason=f"{status} with an answer that is not UTF-8")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Retry(status=status, reason=f"{status} with an answer that was cut short")
        if not text.strip():
            return Retry(status=status, reason=f"{status} without an answer")
        try:
            resource = AppointmentResource.model_validate_json(text)
        except (ValidationError, RecursionError):
            return Retry(status=status, reason=f"{status} with an answer that is no AppointmentResource")
        return Synced(status=status, resource=resource, text=text)

    async def _about_to_write(self, _session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
        """Called by aiohttp when the headers are about to be written: the last moment at which nothing was sent."""
        state = context.trace_request_ctx
        if self._now() >= state.deadline:
            raise TooLate
        state.sent = True

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


class _TooLarge(Exception):
    """The answer is longer than any AppointmentResource."""


async def _read(response: aiohttp.ClientResponse) -> bytes:
    chunks = bytearray()
    async for chunk in response.content.iter_any():
        chunks += chunk
        if len(chunks) > ANSWER_MAX_BYTES:
            response.close()
            raise _TooLarge
    return bytes(chunks)


async def _fields_named(response: aiohttp.ClientResponse) -> tuple[str, ...]:
    """The fields that a 422 names, in the documented form. Only the contract's own names: the rest is free text."""
    with contextlib.suppress(Exception):
        errors = json.loads(await _read(response))["errors"]
        named = {str(key).split(".")[0] for key in errors}
        return tuple(sorted(named & UPDATE_FIELDS))
    return ()


def _count(response: aiohttp.ClientResponse, header: str) -> int | None:
    """A header that counts requests. Nothing and nonsense say nothing."""
    text = response.headers.get(header, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _hints(response: aiohttp.ClientResponse) -> tuple[float, ...]:
    """Seconds to wait, out of Retry-After. Nothing, zero and nonsense are no hint."""
    with contextlib.suppress(ValueError):
        seconds = float(response.headers.get("Retry-After", ""))
        if 0 < seconds < float("inf"):
            return (seconds,)
    return ()


def _reason(error: BaseException) -> str:
    """What broke, in words that hold nothing of the request."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(cause, OSError) or cause.errno is None:
        return type(error).__name__
    # asyncio puts words of its own into strerror; name resolution has negative numbers, and good words of its own.
    words = os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
    return f"{type(error).__name__} ({words})"
