"""The benchmark's hold on its server: starts it, gives it orders, and hears what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from tests.bench.processes import ROOT, ended


class ServerProcess:
    """A running server."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def expect(self, numbers: range) -> None:
        """It will tell when the first of these appointments arrives, and when the last one does, whose answer it keeps
        back."""
        self._order(f"drain {numbers.start} {numbers.stop}")

    def answer(self) -> None:
        """It gives the answer that it keeps back."""
        self._order("answer")

    def watch(self) -> None:
        """It will tell of every request."""
        self._order("watch")

    async def told(self) -> dict[str, Any]:
        """The next thing that it tells."""
        return await _line(self._process)

    async def count(self) -> dict[str, Any]:
        """What arrived since the last order; what it told of that before is left out."""
        self._order("count")
        while "requests" not in (told := await self.told()):
            pass
        return told

    def _order(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n".encode())


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[ServerProcess]:
    """A server on a free port of 127.0.0.1."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.server",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with ended(process):
        yield ServerProcess(process, (await _line(process))["port"])


async def _line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    if not (line := await process.stdout.readline()):
        raise RuntimeError("the benchmark's server has ended")
    told: dict[str, Any] = json.loads(line)
    return told
