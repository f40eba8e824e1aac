"""Threads that nobody waits for at the end: asyncio resolves names in threads, a resolver that gets no answer takes
half a minute, and a command would wait for it before it ends."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn


class DetachedThreads(ThreadPoolExecutor):
    """An executor for `loop.set_default_executor`: a daemon thread for each call."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls `fn` in a thread of its own."""
        future: Future[Any] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
                future.set_exception(error)

        threading.Thread(target=call, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Lets them be."""


def end_whatever_runs(exit_code: int) -> NoReturn:
    """Ends the process, threads that nobody waits for included. Left to Python, a thread that is just within compiled
    code (pydantic's, which checks the lines of a backfill) is unwound through frames that do not allow it, and the
    process ends by SIGABRT instead."""
    if not any(thread.daemon for thread in threading.enumerate()):
        sys.exit(exit_code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)
