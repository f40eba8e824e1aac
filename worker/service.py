"""The service: the engine, and what goes on beside it for as long as it works."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Awaitable, Collection, Coroutine, Iterable

import asyncpg

from worker.addresses import is_loopback, parse_listen
from worker.config import Settings
from worker.engine import Engine
from worker.errors import DATABASE_FAULTS, first_of
from worker.listen import listen
from worker.metrics import Metrics
from worker.reading import SharedReading
from worker.report import Report
from worker.retention import keep_retention
from worker.status import Status, status
from worker.summary import summary
from worker.systemd import Notifier
from worker.telemetry import Log
from worker.token import TokenSource
from worker.trail import Trail

# In seconds: how often the event loop is asked whether it is on time, whether the work goes on, and how it is.
LAG_EVERY_S = 0.5
LATE_EVERY_S = 10.0
STATUS_EVERY_S = 5.0
# A watchdog hears three times in its time that the work goes on.
WATCHDOG_SHARE = 3


async def serve(
    engine: Engine,
    settings: Settings,
    connections: asyncpg.Pool,
    *,
    page_token: TokenSource | None,
    metrics: Metrics,
    notifier: Notifier,
    log: Log,
) -> Report:
    """Works until the engine is told to stop. When one part dies, all end, and its error is raised. `page_token`: what
    the page asks people for, if it does."""
    trail = Trail()
    reading = SharedReading(connections, status, told=trail.add)
    days, chance = settings.worker.retention_days, random.Random()  # noqa: S311  when to prune is no secret
    async with answering(
        engine, settings, connections, page_token=page_token, metrics=metrics, reading=reading, trail=trail, log=log
    ):
        beside: list[Coroutine[None, None, None]] = [
            keep_retention(connections, retention_days=days, log=log, chance=chance),
            _measure_lag(metrics),
            _watchdog(engine, notifier, log=log),
            _tell_status(engine, notifier, reading, configured=settings.accounts),
        ]
        if not settings.database.pgbouncer:
            beside.append(listen(settings.database, engine.wake, log=log))
        return await serve_beside(engine.run_service(), beside)


async def serve_beside(work: Awaitable[Report], beside: Iterable[Coroutine[None, None, None]]) -> Report:
    """What `work` returns; with it ends what goes on beside. When one part dies, all end, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as parts:
            tasks = [parts.create_task(part) for part in beside]
            report = await work
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as group:
        raise first_of(group) from group
    return report


@contextlib.asynccontextmanager
async def answering(
    engine: Engine,
    settings: Settings,
    connections: asyncpg.Pool,
    *,
    page_token: TokenSource | None,
    metrics: Metrics,
    reading: SharedReading[Status],
    trail: Trail,
    log: Log,
) -> AsyncIterator[str | None]:
    """Answers at `http.listen`, if it is set, from before the work begins until after it has ended. Gives where."""
    place = parse_listen(settings.http.listen)
    if place is None:
        yield None
        return
    from worker.web.doorman import Doorman
    from worker.web.health import Readiness, liveness
    from worker.web.scrapes import Scrapes
    from worker.web.server import listening
    from worker.web.site import site

    ready = Readiness(
        connections, list(settings.accounts), started=engine.ready.is_set, draining=lambda: engine.stopping
    )
    # Whoever watches over us asks under any name, and for no token.
    machines = {
        "/livez": liveness(engine.pulse),
        "/readyz": ready.page,
        "/metrics": Scrapes(metrics, reading, connections).page,
    }
    doorman = Doorman(page_token, hosts=settings.http.hosts, loopback=is_loopback(place[0]))
    people = site(settings, doorman, connections, counts=reading, trail=trail, log=log)
    async with listening(*place, {**people.pages, **machines}, forms=people.forms, log=log) as address:
        try:
            yield address
        finally:
            await people.close()


async def _measure_lag(metrics: Metrics) -> None:
    """Measures, until cancelled, by how much the loop comes late to what it was to do."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        metrics.lagged(max(0.0, loop.time() - due))


async def _watchdog(engine: Engine, notifier: Notifier, *, log: Log) -> None:
    """Tells systemd, until cancelled, that the service is ready, since the database is there and has the schema, and
    then that it is alive: for as long as the work goes on, and not only this task."""
    notifier.ready()
    every_s = min(LATE_EVERY_S, (notifier.watchdog_s or math.inf) / WATCHDOG_SHARE)
    stuck = False
    while True:
        late = engine.pulse.late
        if not late:
            notifier.watchdog()
        elif not stuck:
            log.error("work_stuck", parts=list(late))
        stuck = bool(late)
        await asyncio.sleep(every_s)


async def _tell_status(
    engine: Engine, notifier: Notifier, reading: SharedReading[Status], *, configured: Collection[str]
) -> None:
    """Tells systemd how it is, in a line, until cancelled; where nobody listens, nothing is read for it."""
    while notifier.listens:
        try:
            how = summary(await reading.get(STATUS_EVERY_S), configured)
        except DATABASE_FAULTS as fault:
            how = str(fault)
        except Exception as error:  # noqa: BLE001  who only tells must not end the work
            how = f"how it is cannot be told ({type(error).__name__})"
        done = engine.tally
        notifier.status(f"{how}; since the start {done.requests:,} requests, {done.synced:,} changes synced")
        await asyncio.sleep(STATUS_EVERY_S)
