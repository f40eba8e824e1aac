"""Waiting for a condition, with a limit: no test waits for a fixed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

# What a busy machine may take longer, where what a test rules out would go on for ever.
NOISE_S = 10.0


async def eventually(
    condition: Callable[[], Any | Awaitable[Any]],
    *,
    limit_s: float = 20.0,
    every_s: float = 0.02,
    what: str = "condition",
) -> Any:
    """The condition's first true value. Fails after `limit_s` seconds."""
    ends_at = time.monotonic() + limit_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < ends_at, f"not within {limit_s} s: {what}; last: {value!r}"
        await asyncio.sleep(every_s)
