"""What signals ask of a process that works: to drain, to stop at once, to read the tokens again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from worker.engine import Engine
from worker.systemd import Notifier
from worker.telemetry import Log
from worker.tracing import Ending


@contextlib.contextmanager
def obeyed(
    engine: Engine,
    stop_at_once: Callable[[], None],
    *,
    drains_within_s: float,
    notifier: Notifier,
    ending: Ending,
    log: Log,
) -> Iterator[None]:
    """The first SIGTERM or SIGINT lets requests in flight finish; the second stops at once. SIGHUP reads the tokens
    again. `drains_within_s`: how long requests in flight may take."""

    def asked_to_stop() -> None:
        if engine.stopping:
            stop_at_once()
            ending.within(0)
            return
        log.info("draining", claims=engine.on_the_wire)
        ending.within(drains_within_s)
        notifier.stopping()
        engine.stop()

    def asked_to_reload() -> None:
        notifier.reloading()
        engine.reread_tokens()
        log.info("tokens_read_again")
        if engine.ready.is_set():
            notifier.ready()

    loop = asyncio.get_running_loop()
    handlers = {signal.SIGINT: asked_to_stop, signal.SIGTERM: asked_to_stop, signal.SIGHUP: asked_to_reload}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
