"""A server that answers raw bytes, right or wrong, and remembers every byte that it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came over the wire."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


@dataclass(slots=True)
class RawServer:
    """What the server was sent so far."""

    port: int = 0
    scheme: str = "http"
    connections: int = 0
    received: bytearray = field(default_factory=bytearray)
    requests: list[Request] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        host = "127.0.0.1" if self.scheme == "http" else "localhost"  # certificates are for names
        return f"{self.scheme}://{host}:{self.port}/v1"


Respond = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    """A whole, well-formed answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def saying(raw: bytes) -> Respond:
    """Writes these bytes and closes."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    return respond


def keeping_alive(raw: bytes) -> Respond:
    """Writes these bytes and waits for the next request on the same connection."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return respond


def dripping(head: bytes, drop: bytes, *, every_s: float = 0.02) -> Respond:
    """Writes the head, and then a drop now and then, without end."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(every_s)

    return respond


def silent() -> Respond:
    """Takes the request and never says a word."""

    async def respond(_: Request, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    return respond


def resetting(raw: bytes = b"") -> Respond:
    """Writes these bytes, if any, and then resets the connection (RST, not FIN)."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return respond


@contextlib.asynccontextmanager
async def raw_server(respond: Respond, *, context: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Serves on a free port of 127.0.0.1, by TLS with a context. Keeps connections alive unless `respond` closes
    them."""
    server = RawServer(scheme="https" if context else "http")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        while not writer.is_closing():
            request = await _read(reader, server)
            server.requests.append(request)
            await respond(request, writer)

    async with bare_server(serve, context=context) as server.port:
        yield server


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def bare_server(
    serve: Serve, *, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serves bare connections on a free port, which it gives, of an address. A reset by the client ends a connection
    like any other end, and so does leaving the block."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(asyncio.current_task())
            writer.transport.abort()

    listener = await asyncio.start_server(quietly, host, 0, limit=2**22, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        running = [task for task in tasks if task]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, server: RawServer) -> Request:
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        byte = await reader.readexactly(1)
        server.received += byte
        head += byte
    line, *fields = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in fields)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    server.received += body
    return Request(line, headers, body)


def closed_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
