"""/metrics: what this process has counted, and how it is for all of them together."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
from aiohttp import web
from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder

from worker.gauges import gauges
from worker.metrics import PREFIX, Metrics
from worker.reading import SharedReading
from worker.status import Status
from worker.web.newest import Newest

# How old the gauges of all processes may be, in seconds.
MAX_AGE_S = 5.0


class Scrapes:
    """Puts the families together."""

    def __init__(self, metrics: Metrics, reading: SharedReading[Status], pool: asyncpg.Pool) -> None:
        self._metrics = metrics
        self._newest = Newest(reading, max_age_s=MAX_AGE_S)
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
