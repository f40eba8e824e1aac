"""A sandbox and a client that knows its token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from worker.sandbox import Sandbox, SandboxSettings

AUTH = {"Authorization": "Bearer sandbox"}


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[Sandbox, aiohttp.ClientSession]]:
    """A sandbox with these options, whose limit is out of the way unless it is among them."""
    settings = SandboxSettings(**{"limit": 1000, **options})
    async with Sandbox(settings) as sandbox, aiohttp.ClientSession(headers=AUTH) as session:
        yield sandbox, session
