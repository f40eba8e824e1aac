"""The event loop of whatever works for long: uvloop's where it is installed, asyncio's own elsewhere."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# A few hundred requests on the wire are some fifteen thousand objects that come and go without a cycle among them. By
# default Python would look through them a hundred times a second, for a sixth of all the CPU that a request takes.
COLLECT_AFTER = 50_000


def run(work: Coroutine[Any, Any, T]) -> T:
    """What the work returns, as `asyncio.run` does."""
    gc.freeze()  # what is imported by now stays to the end
    gc.set_threshold(COLLECT_AFTER, 10, 10)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
