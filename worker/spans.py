"""A span for each request to the API, as OpenTelemetry's semantic conventions for HTTP clients have it.

It is a trace of its own, linked to those of the writers: one request may stand for the changes of many. Nothing of a
body and no token is in it, and nothing of it goes to the API, which is somebody else's.

The only module that imports OpenTelemetry, and only imported where requests are traced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Awaitable, Iterator, Sequence
from http import HTTPStatus
from itertools import islice
from urllib.parse import quote, urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from worker import __version__, clock, privacy
from worker.claims import Claim
from worker.merge import Change
from worker.outcome import Exchange, Synced
from worker.telemetry import Log

TEMPLATE = "/appointments/{appointment}"
NAME = f"POST {TEMPLATE}"
# As many as the SDK keeps of a span.
MAX_LINKS = 128
# How often it is said that spans are lost, in seconds.
REMIND_S = 600.0

_W3C = TraceContextTextMapPropagator()
# A request begins a trace, whatever goes on around it.
_NOTHING_AROUND = Context()


class Spans:
    """Makes the spans of one process and has them delivered, from a thread of OpenTelemetry's own."""

    def __init__(self, base_url: str, *, worker: str, log: Log) -> None:
        """Raises whatever OpenTelemetry raises for settings that make no sense."""
        parts = urlsplit(base_url)
        self._base_url = base_url
        self._common: dict[str, AttributeValue] = {
            "http.request.method": "POST",
            "url.template": TEMPLATE,
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        }
        self._provider = TracerProvider(resource=_resource(worker), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("caspen-sync", __version__)
        self._complaints = Complaints(log.bind(worker=worker))  # what a thread logs has nothing bound to it

    async def follow(
        self, sending: Awaitable[Exchange], claim: Claim, changes: Sequence[Change], *, resends: int
    ) -> Exchange:
        """Awaits the exchange within a span."""
        span = self._tracer.start_span(
            NAME,
            context=_NOTHING_AROUND,
            kind=SpanKind.CLIENT,
            attributes=self._attributes(claim, changes, resends),
            links=links(changes),
        )
        try:
            exchange = await sending
            _conclude(span, exchange)
        finally:
            span.end()
        return exchange

    async def close(self, *, within_s: float) -> None:
        """Delivers what is left, for so long at most; after that nothing is said of it any more."""
        loop, delivered = asyncio.get_running_loop(), asyncio.Event()

        def deliver() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(delivered.set)

        # A daemon: the process would wait for any other thread, the loop's own included.
        threading.Thread(target=deliver, daemon=True).start()
        try:
            async with asyncio.timeout(within_s):
                await delivered.wait()
        except TimeoutError:
            self._complaints.lost()
        finally:
            self._complaints.close()

    def _attributes(self, claim: Claim, changes: Sequence[Change], resends: int) -> dict[str, AttributeValue]:
        return {
            **self._common,
            "url.full": f"{self._base_url}/appointments/{quote(claim.appointment_id, safe='')}",
            "caspen_sync.account": claim.account,
            "caspen_sync.appointment_id": claim.appointment_id,
            "caspen_sync.lane": claim.lane,
            "caspen_sync.changes": len(changes),
            **({"http.request.resend_count": resends} if resends else {}),
        }


def _resource(worker: str) -> Resource:
    """Who sends the spans; what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes first.

    The SDK's other detectors are left out: some versions tell the command line, and a DSN may stand there.
    """
    ours = {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": sdk_version,
        "service.name": "caspen-sync",
        "service.version": __version__,
        "service.instance.id": worker,
    }
    return Resource(ours).merge(OTELResourceDetector().detect())


def links(changes: Sequence[Change]) -> list[Link]:
    """To where the changes come from, as far as their writers said: the newest ones, each once."""
    told = dict.fromkeys(change.traceparent for change in reversed(changes) if change.traceparent)
    sound = (context for context in map(_context, told) if context.is_valid)
    return [Link(context) for context in islice(sound, MAX_LINKS)]


def _context(traceparent: str) -> SpanContext:
    """What is not a W3C trace context is no valid one. Of the text nothing is kept but the numbers in it."""
    return get_current_span(_W3C.extract({"traceparent": traceparent}, _NOTHING_AROUND)).get_span_context()


def _conclude(span: Span, exchange: Exchange) -> None:
    outcome = exchange.outcome
    span.set_attribute("caspen_sync.outcome", outcome.name)
    if outcome.status is not None:
        span.set_attribute("http.response.status_code", outcome.status)
    if isinstance(outcome, Synced):
        return
    told = outcome.status is not None and not 200 <= outcome.status < 300
    span.set_attribute("error.type", str(outcome.status) if told else outcome.name)
    span.set_status(Status(StatusCode.ERROR, privacy.redacted(outcome.reason)))


class Complaints(logging.Handler):
    """What OpenTelemetry logs, as one event now and then: of a collector that is away it tells every second or two.

    Words of the collector's, or of an exception, are not repeated; a status and a type are.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._why: str | None = None
        self._times = 0
        self._silent_until = 0.0
        self._logger = logging.getLogger("opentelemetry")
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Takes in why. A warning says that it tries again; an error, that a batch of spans is lost."""
        self._why = _why(record) or self._why
        if record.levelno >= logging.ERROR:
            self.lost()

    def lost(self) -> None:
        """Says that spans are lost, and why as far as is known."""
        with self._alone():
            self._times += 1
            if clock.now() >= self._silent_until:
                self._silent_until = clock.now() + REMIND_S
                self._log.warning("traces_lost", error=self._why or "not delivered in time", times=self._times)
                self._why, self._times = None, 0

    def close(self) -> None:
        """From now on nothing is said: a thread that writes while the interpreter ends can bring it down."""
        with self._alone():
            self._silent_until = math.inf
        super().close()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """By the lock under which `emit` is called."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


_PHRASES = frozenset(status.phrase for status in HTTPStatus)


def _why(record: logging.LogRecord) -> str:
    """A status with its standard words, and the type of the exception that began it; empty when it tells neither."""
    raised = [record.exc_info[1]] if record.exc_info else []
    words: list[str] = []
    for said in (*(record.args if isinstance(record.args, tuple) else ()), *raised):
        if isinstance(said, BaseException):
            words.append(type(_origin(said)).__name__)
        elif type(said) is int or said in _PHRASES:
            words.append(str(said))
    return " ".join(words)


def _origin(error: BaseException) -> BaseException:
    while earlier := error.__cause__ or error.__context__:
        error = earlier
    return error
