"""A TCP proxy that can go dark: its connections stay open, and nothing comes through any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Proxy:
    """Forwards to a port of 127.0.0.1."""

    target: int
    port: int = 0
    dark_for_new: bool = False
    """Whether connections are taken and then met with silence."""
    _lights: list[asyncio.Event] = field(default_factory=list)

    def go_dark(self) -> None:
        """For the connections that are open now."""
        for light in self._lights:
            light.clear()
        self._lights.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.dark_for_new:
            await asyncio.Event().wait()
        light = asyncio.Event()
        light.set()
        self._lights.append(light)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_forward(reader, far_writer, light))
                ways.create_task(_forward(far_reader, writer, light))
        finally:
            far_writer.close()


async def _forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, light: asyncio.Event) -> None:
    while data := await source.read(65536):
        await light.wait()
        sink.write(data)
        await sink.drain()
    sink.close()


@contextlib.asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """A proxy on a free port."""
    proxy = Proxy(port)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            await proxy.serve(reader, writer)
        except (OSError, asyncio.CancelledError, BaseExceptionGroup):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        running = list(tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
