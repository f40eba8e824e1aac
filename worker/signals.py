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

# After the last request on the wire could be answered: to write back, in seconds. A database that has gone dark gets no
# more, and what it was not told is left to the leases.
WRITE_BACK_S = 5.0


@contextlib.contextmanager
def obeyed(
    engine: Engine,
    stop_at_once: Callable[[], None],
    *,
    drains_within_s: float,
    notifier: Notifier,
    ending: Ending,
    log: Log,
    reloads: bool = True,
) -> Iterator[None]:
    """The first SIGTERM or SIGINT lets requests in flight finish; the second stops at once. SIGHUP reads the tokens
    again, or, without `reloads`, is a terminal that was closed, and does as the others, unless nohup had it ignored.
    `drains_within_s`: how long requests in flight may take. Afterwards, signals that ask for what is being done anyway
    do nothing."""
    timers: list[asyncio.TimerHandle] = []

    def asked_to_stop() -> None:
        if engine.stopping:
            stop_at_once()
            ending.within(0)
            return
        log.info("draining", claims=engine.on_the_wire)
        ending.within(drains_within_s)
        notifier.stopping()
        engine.stop()
        timers.append(loop.call_later(drains_within_s + WRITE_BACK_S, stop_at_once))

    def asked_to_reload() -> None:
        notifier.reloading()
        engine.reread_tokens()
        log.info("tokens_read_again")
        notifier.ready()

    loop = asyncio.get_running_loop()
    handlers = {signal.SIGINT: asked_to_stop, signal.SIGTERM: asked_to_stop}
    if reloads or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handlers[signal.SIGHUP] = asked_to_reload if reloads else asked_to_stop
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number in handlers:
            loop.add_signal_handler(number, lambda: None)
