"""Puts an engine together with what it needs."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from typing import Any

import asyncpg
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
from worker.signals import obeyed
from worker.store import Store
from worker.systemd import Notifier
from worker.telemetry import configure, log
from worker.token import TokenSource, read_page_token
from worker.tracing import traced
from worker.wire import MOST_ON_THE_WIRE

# One connection claims, one writes back, one for quick retries' slots, the heartbeat and the budget, one prunes, one
# reads how it is, one looks whether all is ready, one is for the page, and one for what it looks at often.
POOL_SIZE = 9

# Files that a process has open besides its requests: the database, listeners, the token files, libraries.
OTHER_FILES = 64

Work = Callable[[Engine, Store, asyncpg.Pool], Coroutine[Any, Any, Report]]


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
    metrics, notifier = metrics or Metrics(), Notifier()
    page_token = None if once else read_page_token(settings.http)

    async def work(engine: Engine, _: Store, connections: asyncpg.Pool) -> Report:
        if once:
            return await engine.run_once()
        return await serve(
            engine, settings, connections, page_token=page_token, metrics=metrics, notifier=notifier, log=log()
        )

    return await with_engine(
        work,
        settings,
        tokens,
        once=once,
        metrics=metrics,
        notifier=notifier,
        page_token=page_token,
        ends_at=ends_at,
    )


async def with_engine(
    work: Work,
    settings: Settings,
    tokens: Mapping[str, TokenSource],
    *,
    once: bool,
    metrics: Metrics,
    notifier: Notifier,
    page_token: TokenSource | None = None,
    ends_at: float | None = None,
    reloads: bool = True,
) -> Report:
    """What `work` returns, which is given an engine, its store and the connections of both. Signals are obeyed
    meanwhile; see `signals` for `reloads`. `once`: whether it ends by itself. `page_token`: is kept fresh with
    `tokens`. Raises CaspenSyncError."""
    configure(settings.log)
    name = worker_name()
    structlog.contextvars.bind_contextvars(worker=name)
    logger = log().bind()
    runtime = None if ends_at is None else Runtime(ends_at, timeout_s=settings.api.timeout_s)
    async with (
        traced(settings.api.base_url, worker=name, log=logger, ends_at=ends_at) as ending,
        _caspen(settings.api) as caspen,  # first: a bad api.ca_file is told even when the database is away
        pool(settings.database, max_size=POOL_SIZE) as connections,
    ):
        await require_current_schema(connections)
        store = Store(connections, worker=name, retry=settings.retry)
        engine = Engine(
            settings,
            store,
            caspen,
            tokens,
            page_token=page_token,
            log=logger,
            metrics=metrics,
            runtime=runtime,
            most_on_the_wire=_most_on_the_wire(),
        )
        working = asyncio.ensure_future(work(engine, store, connections))

        def stop_at_once() -> None:
            working.cancel()
            # A statement that is cancelled waits for the server to confirm it, which one that has gone dark never does.
            connections.terminate()

        if runtime:
            asyncio.get_running_loop().call_later(runtime.over_in_s, stop_at_once)
        limit_s = settings.api.timeout_s
        with obeyed(
            engine,
            stop_at_once,
            drains_within_s=limit_s,
            notifier=notifier,
            ending=ending,
            log=logger,
            reloads=reloads,
        ):
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


def _most_on_the_wire() -> int:
    """How many requests the process may have out at once: each has a connection, and so an open file, of its own. What
    is allowed at first is meant for programs that use select(2), and may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_ON_THE_WIRE + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MOST_ON_THE_WIRE if soft == resource.RLIM_INFINITY else max(1, min(MOST_ON_THE_WIRE, soft - OTHER_FILES))


def _caspen(api: ApiSettings) -> Caspen:
    proxy = api.proxy.get_secret_value() if api.proxy else None
    return Caspen(api.base_url, timeout_s=api.timeout_s, ca_file=api.ca_file, proxy=proxy)
