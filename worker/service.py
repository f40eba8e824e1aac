"""The service: the engine, and what goes on beside it for as long as it works."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine

import asyncpg

from worker.config import Settings, parse_listen
from worker.engine import Engine
from worker.errors import first_of
from worker.listen import listen
from worker.metrics import Metrics
from worker.reading import SharedReading
from worker.report import Report
from worker.retention import keep_retention
from worker.telemetry import Log

# How often the event loop is asked whether it is on time, in seconds.
LAG_EVERY_S = 0.5


async def serve(
    engine: Engine,
    settings: Settings,
    connections: asyncpg.Pool,
    *,
    metrics: Metrics,
    draining: Callable[[], bool],
    log: Log,
) -> Report:
    """Works until the engine is told to stop. When one part dies, all end, and its error is raised. `draining`: whether
    it was told to stop."""
    days, chance = settings.worker.retention_days, random.Random()  # noqa: S311  when to prune is no secret
    beside: list[Coroutine[None, None, None]] = [
        keep_retention(connections, retention_days=days, log=log, chance=chance),
        _measure_lag(metrics),
    ]
    if not settings.database.pgbouncer:
        beside.append(listen(settings.database, engine.wake, log=log))
    async with _web(engine, settings, connections, metrics=metrics, draining=draining, log=log):
        try:
            async with asyncio.TaskGroup() as parts:
                tasks = [parts.create_task(part) for part in beside]
                report = await engine.run_service()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise first_of(group) from group
    return report


@contextlib.asynccontextmanager
async def _web(
    engine: Engine,
    settings: Settings,
    connections: asyncpg.Pool,
    *,
    metrics: Metrics,
    draining: Callable[[], bool],
    log: Log,
) -> AsyncIterator[None]:
    """Answers at `http.listen`, if it is set, from before the work begins until after it has ended."""
    place = parse_listen(settings.http.listen)
    if place is None:
        yield
        return
    from worker.web.health import Readiness, liveness
    from worker.web.scrapes import Scrapes
    from worker.web.server import listening

    ready = Readiness(connections, list(settings.accounts), started=engine.ready.is_set, draining=draining)
    pages = {
        "/livez": liveness(engine.pulse),
        "/readyz": ready.page,
        "/metrics": Scrapes(metrics, SharedReading(connections), connections).page,
    }
    async with listening(*place, pages, log=log):
        yield


async def _measure_lag(metrics: Metrics) -> None:
    """Measures, until cancelled, by how much the loop comes late to what it was to do."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        metrics.lagged(max(0.0, loop.time() - due))
