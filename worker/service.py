"""The service: the engine, and what goes on beside it for as long as it works."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine

import asyncpg

from worker.config import Settings
from worker.engine import Engine
from worker.errors import first_of
from worker.listen import listen
from worker.metrics import Metrics
from worker.report import Report
from worker.retention import keep_retention
from worker.systemd import Notifier
from worker.telemetry import Log

# How often the event loop is asked whether it is on time, in seconds.
LAG_EVERY_S = 0.5


# How often systemd hears how it is, in seconds; and of a watchdog's time, after which part it is told that all is well.
STATUS_EVERY_S = 10.0
WATCHDOG_SHARE = 3


async def serve(
    engine: Engine,
    settings: Settings,
    connections: asyncpg.Pool,
    *,
    metrics: Metrics,
    notifier: Notifier,
    log: Log,
) -> Report:
    """Works until the engine is told to stop. When one part dies, all end, and its error is raised."""
    days, chance = settings.worker.retention_days, random.Random()  # noqa: S311  when to prune is no secret
    beside: list[Coroutine[None, None, None]] = [
        keep_retention(connections, retention_days=days, log=log, chance=chance),
        _measure_lag(metrics),
        _tell_systemd(engine, notifier, log=log),
    ]
    if not settings.database.pgbouncer:
        beside.append(listen(settings.database, engine.wake, log=log))
    try:
        async with asyncio.TaskGroup() as parts:
            tasks = [parts.create_task(part) for part in beside]
            report = await engine.run_service()
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as group:
        raise first_of(group) from group
    return report


async def _measure_lag(metrics: Metrics) -> None:
    """Measures, until cancelled, by how much the loop comes late to what it was to do."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        metrics.lagged(max(0.0, loop.time() - due))


async def _tell_systemd(engine: Engine, notifier: Notifier, *, log: Log) -> None:
    """Tells, until cancelled, that the service is ready, how it is, and that it is alive: for as long as the work goes
    on, and not only this task."""
    await engine.ready.wait()
    notifier.ready()
    watchdog_s = notifier.watchdog_s or math.inf
    stuck = False
    while True:
        notifier.status(_figures(engine))
        late = engine.pulse.late
        if not late:
            notifier.watchdog()
        elif not stuck:
            log.error("work_stuck", parts=list(late))
        stuck = bool(late)
        await asyncio.sleep(min(STATUS_EVERY_S, watchdog_s / WATCHDOG_SHARE))


def _figures(engine: Engine) -> str:
    tally = engine.tally
    return (
        f"{engine.on_the_wire} on the wire; since the start {tally.requests} requests, {tally.synced} changes synced, "
        f"{tally.parked} parked"
    )
