"""/metrics: what this process has counted, and how it is for all of them together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
from aiohttp import web
from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder

from worker import clock
from worker.errors import DATABASE_FAULTS
from worker.gauges import gauges
from worker.metrics import PREFIX, Metrics
from worker.reading import SharedReading
from worker.status import Status

# How old the gauges of all processes may be, and how long a scrape waits for newer ones, in seconds.
MAX_AGE_S = 5.0
LONGEST_S = 2.0


class Newest:
    """The newest reading. A database that is slow, or has gone dark, holds up no scrape for long."""

    def __init__(self, reading: SharedReading) -> None:
        self._reading = reading
        self._found: tuple[float, Status] | None = None
        self._going_on: asyncio.Task[None] | None = None
        self._began_at = 0.0

    async def get(self) -> Status | None:
        """How it is as far as is known: the last reading, when the one that goes on takes long; None when it failed,
        or there was none yet."""
        if self._going_on is None or self._going_on.done():
            self._going_on = asyncio.create_task(self._read())
            self._began_at = clock.now()
        # Counted from its begin: of many scrapes in an outage, one waits.
        await asyncio.wait({self._going_on}, timeout=max(0.0, self._began_at + LONGEST_S - clock.now()))
        if self._going_on.done():
            self._going_on.result()
        if self._found is None:
            return None
        at, status = self._found
        return status.later(clock.now() - at)

    async def _read(self) -> None:
        try:
            status = await self._reading.get(MAX_AGE_S)
        except DATABASE_FAULTS:
            self._found = None
        else:
            self._found = (clock.now(), status)


class Scrapes:
    """Puts the families together."""

    def __init__(self, metrics: Metrics, reading: SharedReading, pool: asyncpg.Pool) -> None:
        self._metrics = metrics
        self._newest = Newest(reading)
        self._pool = pool
        self._process = ProcessCollector(registry=None)

    async def page(self, request: web.BaseRequest) -> web.Response:
        """In Prometheus's text format, or as OpenMetrics for who asks for that."""
        status = await self._newest.get()
        families = _Families([*self._of_this_process(), *gauges(status)])
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return web.Response(body=encode(families), headers={"Content-Type": content_type})

    def _of_this_process(self) -> Iterator[Metric]:
        yield from self._metrics.registry.collect()
        yield from self._process.collect()
        connections = GaugeMetricFamily(
            f"{PREFIX}_database_connections", "Connections in this process's pool.", labels=["state"]
        )
        idle = self._pool.get_idle_size()
        connections.add_metric(["idle"], idle)
        connections.add_metric(["used"], self._pool.get_size() - idle)
        yield connections
        yield GaugeMetricFamily(
            f"{PREFIX}_database_connections_max", "The most that the pool opens.", value=self._pool.get_max_size()
        )


class _Families:
    """What the encoders take."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """All of them."""
        return self._families
