"""The API of the benchmark, a process of its own: it reads just enough of HTTP/1.1 to tell requests apart, answers each
with the same prepared bytes, and counts.

`python -m tests.bench.server` is spoken to by lines on its standard input:

    drain FROM TO   counts anew; tells when the first of these appointments arrives, and when the last one does, whose
                    answer it keeps back
    answer          gives that answer
    watch           counts anew; tells of every request when it arrived
    count           tells what arrived since

It answers by lines of JSON. Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any, cast

import uvloop

from tests.bench.work import ANSWER, ID_DIGITS

_REQUEST = b"POST /v1/appointments/app_"
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Count:
    """What arrived since the last order."""

    def __init__(self, expected: range = range(0), *, watching: bool = False) -> None:
        self._expected = expected
        self._seen = bytearray(len(expected))
        self._missing = len(expected)
        self._watching = watching
        self.requests = 0
        self.twice = 0
        self.strange = 0
        self.body = b""

    def take(self, number: int, body: bytes, at: float) -> bool:
        """Counts one request. Whether it is answered at once: all but the last one are."""
        self.requests += 1
        self.body = body
        if self._watching:
            tell(arrived=number, at=at)
        elif number not in self._expected:
            self.strange += 1
        elif self._seen[number - self._expected.start]:
            self.twice += 1
        else:
            self._seen[number - self._expected.start] = 1
            if self._missing == len(self._expected):
                tell(first=at)
            self._missing -= 1
            if not self._missing:
                tell(last=at)
                return False
        return True

    def told(self) -> dict[str, Any]:
        """For `count`."""
        return {
            "requests": self.requests,
            "twice": self.twice,
            "missing": self._missing,
            "strange": self.strange,
            "body": self.body.decode(errors="replace"),
        }


class Server:
    """What the connections have in common."""

    def __init__(self) -> None:
        self.count = Count()
        self.kept_back: list[asyncio.Transport] = []

    def obey(self, order: str) -> None:
        """One line of standard input."""
        match order.split():
            case ["drain", start, stop]:
                self.count = Count(range(int(start), int(stop)))
            case ["answer"]:
                for transport in self.kept_back:
                    transport.write(ANSWER)
                self.kept_back.clear()
            case ["watch"]:
                self.count = Count(watching=True)
            case ["count"]:
                tell(**self.count.told())


class Connection(asyncio.Protocol):
    """One connection: answers whatever is complete, and keeps the rest."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        at = time.monotonic()
        data = self._rest + data if self._rest else data
        count = self._server.count
        answers: list[bytes] = []
        begins = 0
        while (head_ends := data.find(b"\r\n\r\n", begins)) >= 0:
            length = _LENGTH.search(data, begins, head_ends)
            body_begins = head_ends + 4
            ends = body_begins + (int(length[1]) if length else 0)
            if ends > len(data):
                break
            if not data.startswith(_REQUEST, begins):
                count.strange += 1
                answers.append(_NOT_FOUND)
            else:
                id_begins = begins + len(_REQUEST)
                if count.take(int(data[id_begins : id_begins + ID_DIGITS]), data[body_begins:ends], at):
                    answers.append(ANSWER)
                else:
                    self._server.kept_back.append(self._transport)
            begins = ends
        self._rest = data[begins:]
        if answers:
            self._transport.write(b"".join(answers))


def tell(**what: Any) -> None:
    """One line for the benchmark."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = Server()
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=1024)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    tell(port=listener.sockets[0].getsockname()[1])
    while order := await orders.readline():
        server.obey(order.decode())


if __name__ == "__main__":
    uvloop.run(main())
