"""The network between the workers and a server of theirs: a relay that delays, goes dark, and cuts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator

from tests.support.rawserver import bare_server

# Closing a socket with this sends a reset at once (socket(7), SO_LINGER).
_RESET = struct.pack("ii", 1, 0)


class Link:
    """A relay from a port of its own to another one of 127.0.0.1. What it does changes while it runs."""

    def __init__(self, to_port: int, *, holds_s: float | None) -> None:
        """`holds_s`: what was held up for longer is lost, with its connection. None: it arrives, however late."""
        self.port = 0
        self.delay_s = 0.0
        self._to_port = to_port
        self._holds_s = holds_s
        self._lit = asyncio.Event()
        self._lit.set()
        self._up = True
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Resets every connection there is."""
        for writer in list(self._writers):
            _reset(writer)

    def take_down(self) -> None:
        """The same, and resets new ones until `bring_up`."""
        self._up = False
        self.cut()

    def bring_up(self) -> None:
        self._up = True

    def darken(self) -> None:
        """Connections are made and stay, and nothing gets through until `light`."""
        self._lit.clear()

    def light(self) -> None:
        self._lit.set()

    async def down_for(self, seconds: float) -> None:
        """Every connection is reset, and new ones for so long."""
        self.take_down()
        await asyncio.sleep(seconds)
        self.bring_up()

    async def dark_for(self, seconds: float) -> None:
        self.darken()
        await asyncio.sleep(seconds)
        self.light()

    async def far_for(self, seconds: float, *, delay_s: float) -> None:
        """Everything takes so much longer."""
        self.delay_s = delay_s
        await asyncio.sleep(seconds)
        self.delay_s = 0.0

    def mend(self) -> None:
        """As it was at first."""
        self.delay_s = 0.0
        self.light()
        self.bring_up()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        if not self._up:
            _reset(writer)
            return
        self._writers.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._to_port)
            self._writers.add(there)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, there))
                both.create_task(self._pump(there_reader, writer))
        except* OSError:
            pass
        finally:
            for one in (writer, there):
                if one is not None:
                    self._writers.discard(one)
                    _reset(one)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            came_at = time.monotonic()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._lit.wait()
            if self._holds_s is not None and time.monotonic() - came_at > self._holds_s:
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            # TLS has no half of a connection.
            writer.write_eof() if writer.can_write_eof() else writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    # Of a connection whose TLS has ended nothing is known any more.
    with contextlib.suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@contextlib.asynccontextmanager
async def link_to(
    port: int, *, holds_s: float | None = None, here: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> AsyncIterator[Link]:
    """A link from an address of ours, by TLS with a context, to a port; see `Link`."""
    link = Link(port, holds_s=holds_s)
    async with bare_server(link.serve, host=here, context=context) as link.port:
        try:
            yield link
        finally:
            link.mend()
            link.cut()
