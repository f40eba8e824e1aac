"""Ctrl-C, and the other signals that ask for an end, while a backfill is read and loaded."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """Somebody asked for an end. The message says what that leaves, and how to go on."""


class Interrupts:
    """What was asked for so far."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self._again = asyncio.Event()

    def ask(self) -> None:
        """A signal came."""
        (self._again if self.stopping.is_set() else self.stopping).set()

    async def ends(self, work: Coroutine[Any, Any, T], message: str, *, itself: bool = False) -> T:
        """What the work returns. It is broken off by the first signal, or, where it ends by `itself` then, by the
        second: raises Interrupted with the message."""
        working = asyncio.ensure_future(work)
        asked = asyncio.ensure_future((self._again if itself else self.stopping).wait())
        try:
            await asyncio.wait((working, asked), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise Interrupted(f"{message}; run the same command again to go on")
        finally:
            working.cancel()
            working.add_done_callback(lambda done: done.cancelled() or done.exception())
            # What it tidies up is waited for, until somebody asks once more.
            again = asyncio.ensure_future(self._again.wait())
            await asyncio.wait((working, again), return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            again.cancel()


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Takes SIGINT, SIGTERM and SIGHUP; SIGHUP is a terminal that was closed, unless nohup had it ignored."""
    asked = Interrupts()
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, asked.ask)
    try:
        yield asked
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
