"""Answers on the wire: whole, cut short, or none at all."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

OK = 200

_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a JSON value (None: no body) and headers."""

    status: int
    payload: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The body's bytes."""
        return b"" if self.payload is None else json.dumps(self.payload).encode()


def problem(status: int, message: str, **more: Any) -> Answer:
    """An answer in the form in which the API says what is wrong."""
    return Answer(status, {"message": message, **more})


def whole(answer: Answer, headers: Mapping[str, str]) -> web.Response:
    """The answer as it should be; `headers` come on top of its own."""
    return web.Response(
        status=answer.status,
        body=answer.body(),
        headers={**answer.headers, **headers},
        content_type=None if answer.payload is None else "application/json",
    )


def garbled(headers: Mapping[str, str]) -> web.Response:
    """200, JSON by its header only."""
    return web.Response(body=b'{"id": "app_', headers=headers, content_type="application/json")


async def send_cut(request: web.Request, answer: Answer, headers: Mapping[str, str]) -> web.StreamResponse:
    """Sends the head and half of the body, then closes the connection."""
    body = answer.body()
    response = web.StreamResponse(status=answer.status, headers={**answer.headers, **headers})
    response.content_type = "application/json"
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def reset(request: web.Request) -> web.Response:
    """Resets the connection (RST, not FIN). What is returned goes nowhere: the server wants something to return."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Without lingering, closing drops what is not sent and tells the client so.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()
    return web.Response()


def is_gone(request: web.Request) -> bool:
    """Whether the client has hung up."""
    return request.transport is None or request.transport.is_closing()
