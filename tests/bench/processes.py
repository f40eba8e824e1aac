"""Processes that the benchmark starts: modules of the checkout, in an environment without anybody's settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SETTINGS = ("CASPEN_SYNC_", "OTEL_", "PGQUEUER_", "PROCRASTINATE_", "PG", "PYTHON")


class Failed(Exception):
    """A process of a contestant did not do what it was there for."""


async def start(module: str, *args: str, variables: Mapping[str, str]) -> asyncio.subprocess.Process:
    """`python -m MODULE ARGS`; what it says is read by `finish`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *args,
        cwd=ROOT,
        env=inherited | dict(variables),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def finish(process: asyncio.subprocess.Process) -> str:
    """What it said, once it has ended well. Raises Failed, with the end of what it said, when it has not."""
    said = (await process.communicate())[0].decode(errors="replace")
    if process.returncode != 0:
        raise Failed(f"ended with {process.returncode}: {said[-2000:].strip() or 'it says nothing'}")
    return said


@contextlib.asynccontextmanager
async def ended(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """Kills the process when the block is left, unless it has ended."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
