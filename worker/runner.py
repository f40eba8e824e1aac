"""Puts an engine together with what it needs, and lets signals stop it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import structlog

from worker.caspen import Caspen
from worker.config import ApiSettings, Settings
from worker.database import pool
from worker.engine import Engine
from worker.errors import ExitCode
from worker.metrics import Metrics
from worker.migrate import require_current_schema
from worker.report import Report
from worker.runtime import Runtime
from worker.service import serve
from worker.store import Store
from worker.telemetry import configure, log
from worker.token import TokenSource

# One connection claims, one writes back, one for quick retries' slots, the heartbeat and the budget, one prunes, one
# reads how it is, one looks whether all is ready.
POOL_SIZE = 7


def worker_name() -> str:
    """host:pid:random; the last so that a process id that is used again is not taken for its predecessor."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


async def run(
    settings: Settings,
    tokens: Mapping[str, TokenSource],
    *,
    once: bool,
    ends_at: float | None = None,
    metrics: Metrics | None = None,
) -> Report:
    """Runs the service until a signal, or one run until nothing pending is due, or until `ends_at` by `clock.now()`.
    It counts in `metrics`, if they are given. Raises CaspenSyncError."""
    configure(settings.log)
    name = worker_name()
    structlog.contextvars.bind_contextvars(worker=name)
    logger, metrics, draining = log(), metrics or Metrics(), asyncio.Event()
    runtime = None if ends_at is None else Runtime(ends_at, timeout_s=settings.api.timeout_s)
    async with (
        _caspen(settings.api) as caspen,  # first: a bad api.ca_file is told even when the database is away
        pool(settings.database, max_size=POOL_SIZE) as connections,
    ):
        await require_current_schema(connections)
        store = Store(connections, worker=name, retry=settings.retry)
        engine = Engine(settings, store, caspen, tokens, log=logger, metrics=metrics, runtime=runtime)
        working = asyncio.ensure_future(
            engine.run_once()
            if once
            else serve(engine, settings, connections, metrics=metrics, draining=draining.is_set, log=logger)
        )
        with _signals(engine, working, draining):
            logger.info("worker_started", once=once, accounts=sorted(settings.accounts))
            try:
                report = await working
            except asyncio.CancelledError:
                logger.warning("worker_stopped_at_once")
                why = "out of time" if runtime and runtime.claims_for_s <= 0 else "stopped at once"
                return Report(
                    exit_code=ExitCode.WORK_LEFT,
                    tally=engine.tally,
                    reason=f"{why}; what was on the wire is sent again when its lease ends",
                )
        logger.info("worker_stopped", exit_code=int(report.exit_code), **asdict(report.tally))
        return report


def _caspen(api: ApiSettings) -> Caspen:
    proxy = api.proxy.get_secret_value() if api.proxy else None
    return Caspen(api.base_url, timeout_s=api.timeout_s, ca_file=api.ca_file, proxy=proxy)


@contextlib.contextmanager
def _signals(engine: Engine, working: asyncio.Future[Report], draining: asyncio.Event) -> Iterator[None]:
    """The first SIGTERM or SIGINT lets requests in flight finish; the second stops at once. SIGHUP reads the tokens
    again."""
    asked_before = False

    def asked_to_stop() -> None:
        nonlocal asked_before
        if asked_before:
            working.cancel()
        else:
            log().info("draining")
            draining.set()
        asked_before = True
        engine.stop()

    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, asked_to_stop)
    loop.add_signal_handler(signal.SIGHUP, engine.reread_tokens)
    try:
        yield
    finally:
        for number in (*numbers, signal.SIGHUP):
            loop.remove_signal_handler(number)
