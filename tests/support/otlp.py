"""A collector: takes traces over OTLP/HTTP on a real socket, as any of them does, or is out of order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support import canary
from tests.support.processes import environment


@dataclass(frozen=True, slots=True)
class Span:
    """One span as it came in."""

    message: SpanMessage
    resource: Mapping[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        return _plain(self.message.attributes)

    @property
    def appointment_id(self) -> str:
        return str(self.attributes["caspen_sync.appointment_id"])

    @property
    def status(self) -> tuple[str, str]:
        """Its name, and what is said to it."""
        return Status.StatusCode.Name(self.message.status.code), self.message.status.message

    @property
    def links(self) -> set[str]:
        """Where it is linked to: `trace-span` in hexadecimal."""
        links = [f"{link.trace_id.hex()}-{link.span_id.hex()}" for link in self.message.links]
        assert len(links) == len(set(links)), "linked twice"
        return set(links)


@dataclass(slots=True)
class Collector:
    """What came in so far, and how it answers."""

    status: int
    answers_after_s: float
    url: str = ""
    requests: int = 0
    headers: list[Mapping[str, str]] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)

    @property
    def spans(self) -> list[Span]:
        """In the order in which they ended."""
        messages = [ExportTraceServiceRequest.FromString(payload) for payload in self.payloads]
        return [
            Span(message, _plain(of_resource.resource.attributes))
            for request in messages
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for message in of_scope.spans
        ]

    async def take(self, request: web.Request) -> web.Response:
        assert request.headers["Content-Type"] == "application/x-protobuf"
        self.requests += 1
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.payloads.append(await request.read())
        await asyncio.sleep(self.answers_after_s)
        return web.Response(status=self.status)


@contextlib.asynccontextmanager
async def collector(*, status: int = 200, answers_after_s: float = 0.0) -> AsyncIterator[Collector]:
    """Collects on a free port of 127.0.0.1. What it was sent is searched for what must not be said. Raises
    canary.Leaked."""
    collecting = Collector(status, answers_after_s)
    app = web.Application()
    app.router.add_post("/v1/traces", collecting.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collecting.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collecting
    finally:
        await runner.cleanup()
    for payload in collecting.payloads:
        canary.watch(payload.decode(errors="replace"), where="a trace")


def tracing(url: str, dsn: str, base_url: str, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a worker that traces to the collector at `url`."""
    return environment(dsn, base_url, settings) | {"OTEL_EXPORTER_OTLP_ENDPOINT": url}


def traceparent(trace: int, span: int, *, flags: str = "01") -> str:
    """A W3C trace context with these ids."""
    return f"00-{trace:032x}-{span:016x}-{flags}"


def link(trace: int, span: int) -> str:
    """The same, as `Span.links` has it."""
    return f"{trace:032x}-{span:016x}"


def without_opentelemetry(folder: Path) -> dict[str, str]:
    """The environment of an installation without the extra: what stands in this folder is found first."""
    package = folder / "opentelemetry"
    package.mkdir()
    (package / "__init__.py").write_text("raise ModuleNotFoundError(__name__)\n", encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def _plain(attributes: Any) -> dict[str, Any]:
    def value(one: KeyValue) -> Any:
        return getattr(one.value, str(one.value.WhichOneof("value")))

    return {one.key: value(one) for one in attributes}
