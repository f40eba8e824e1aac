"""How much the server can take, from a client that costs next to nothing: the same requests on as many connections, by
protocols that write prepared bytes and wait for as many as an answer has. `python -m tests.bench.capacity`, with what
is given to a contestant."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

import uvloop

from tests.bench.work import ANSWER, BODY, TOKEN, Given, appointment_id

# As long as what aiohttp sends.
_HEAD = (
    "POST /v1/appointments/{} HTTP/1.1\r\nHost: 127.0.0.1:50000\r\nAccept: application/json\r\n"
    f"Accept-Encoding: identity\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    f"User-Agent: Python/3.11 aiohttp/3.14.5\r\nContent-Length: {len(BODY)}\r\n\r\n"
)


class Client(asyncio.Protocol):
    """Sends one request after the other, each when the last one is answered."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._answered = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answered += len(data)
        if self._answered == len(ANSWER):
            self._answered = 0
            self._next()

    def _next(self) -> None:
        if request := next(self._requests, None):
            self._transport.write(request)
        else:
            self._transport.close()
            self.done.set_result(None)


async def main(given: Given) -> None:
    loop = asyncio.get_running_loop()
    port = urlsplit(given.base_url).port or 80
    requests = iter([(_HEAD.format(appointment_id(number)) + BODY).encode() for number in given.numbers])
    clients = [
        (await loop.create_connection(lambda: Client(requests), "127.0.0.1", port))[1] for _ in range(given.concurrency)
    ]
    await asyncio.gather(*(client.done for client in clients))


if __name__ == "__main__":
    uvloop.run(main(Given.of()))
