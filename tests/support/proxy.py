"""A proxy that knows CONNECT: it tunnels, refuses or hangs, and remembers what it was told in the clear."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.support.rawserver import bare_server


@dataclass(slots=True)
class Proxy:
    """What the proxy saw so far."""

    port: int = 0
    heads: list[str] = field(default_factory=list)
    """The head of each request that it was sent."""
    passed: bytearray = field(default_factory=bytearray)
    """Every byte that it passed on to a server: TLS, if all is well."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def connect_proxy(
    answer: bytes | None = b"HTTP/1.1 200 Connection established\r\n\r\n", *, context: ssl.SSLContext | None = None
) -> AsyncIterator[Proxy]:
    """A proxy that gives this answer to CONNECT, or none at all, and tunnels when that is a "200 C…". With a context it
    speaks TLS itself."""
    proxy = Proxy()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        proxy.heads.append(head)
        if answer is None:
            await reader.read()
            return
        writer.write(answer)
        await writer.drain()
        if not answer.startswith(b"HTTP/1.1 200 C"):
            return
        host, _, port = head.split(" ")[1].rpartition(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, there_writer, proxy.passed))
                both.create_task(_pump(there_reader, writer, bytearray()))
        except* OSError:
            pass
        finally:
            there_writer.transport.abort()

    async with bare_server(serve, context=context) as proxy.port:
        yield proxy


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray) -> None:
    while data := await reader.read(65_536):
        seen += data
        writer.write(data)
        await writer.drain()
    writer.close()
