"""Whether requests are traced: OpenTelemetry's standard environment says so.

Where they are not, nothing of OpenTelemetry is even imported. A process has one tracer, as it has one log.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

from worker import clock, privacy
from worker.claims import Claim
from worker.merge import Change
from worker.outcome import Exchange
from worker.telemetry import Log

if TYPE_CHECKING:
    from worker.spans import Spans

# How long the process waits at its end for what is not delivered yet, in seconds: the most, and what it takes even when
# no time is left. A collector that is there needs a few milliseconds.
FLUSH_S = 2.0
FLUSH_AT_LEAST_S = 0.1

_EXTRA = "OpenTelemetry is not installed: pip install 'caspen-sync[otel]', or unset OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL: caspen-sync speaks http/protobuf only, which collectors take on port 4318"

_spans: Spans | None = None


def followed(
    sending: Awaitable[Exchange], claim: Claim, changes: Sequence[Change], *, resends: int
) -> Awaitable[Exchange]:
    """The same exchange, with a span of its own where requests are traced.

    `changes` are those that the request's body was folded from; `resends` tells how many requests of this claim went
    before.
    """
    return sending if _spans is None else _spans.follow(sending, claim, changes, resends=resends)


class Ending:
    """By when the process has to be over, as far as is known."""

    def __init__(self, ends_at: float = math.inf) -> None:
        """`ends_at`: by `clock.now()`."""
        self._ends_at = ends_at

    def within(self, seconds: float) -> None:
        """Not later than that from now on."""
        self._ends_at = min(self._ends_at, clock.now() + seconds)

    @property
    def flush_s(self) -> float:
        """How long to wait for the last spans to be delivered."""
        return max(FLUSH_AT_LEAST_S, min(FLUSH_S, self._ends_at - clock.now()))


@contextlib.asynccontextmanager
async def traced(base_url: str, *, worker: str, log: Log, ends_at: float | None = None) -> AsyncIterator[Ending]:
    """Within it, requests to the API at `base_url` are traced, if the environment says so; at its end what is left is
    delivered, for as long as the Ending that it gives allows. What goes wrong with it is logged and never raised."""
    global _spans  # noqa: PLW0603  a process has one tracer
    ending = Ending(math.inf if ends_at is None else ends_at)
    _spans = _begun(base_url, worker=worker, log=log) if _asked_for() else None
    try:
        yield ending
    finally:
        if _spans:
            await _spans.close(within_s=ending.flush_s)
            _spans = None


def _begun(base_url: str, *, worker: str, log: Log) -> Spans | None:
    """None when it cannot be, which is said once and stops nobody."""
    for secret in _secrets():
        privacy.withhold(secret)
    if _setting("PROTOCOL") not in ("", "http/protobuf"):
        log.warning("tracing_unavailable", reason=_PROTOCOL)
        return None
    try:
        from worker.spans import Spans

        return Spans(base_url, worker=worker, log=log)
    except ImportError:
        log.warning("tracing_unavailable", reason=_EXTRA)
    except Exception as error:  # noqa: BLE001  a bad OTEL_ variable, as a rule; its message would quote it
        log.warning("tracing_unavailable", error=type(error).__name__, at=privacy.places(error))
    return None


# -- the environment -------------------------------------------------------------------------------------------------


def _asked_for() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    return bool(_setting("ENDPOINT")) and "otlp" in (name.strip().lower() for name in exporters.split(","))


def _setting(name: str) -> str:
    """What is set for traces beats what is set for every signal."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") or ""


def _secrets() -> Iterator[str]:
    """What may let somebody into the collector: the headers' values, as written and as meant, with and without a scheme
    such as Bearer."""
    privacy.withhold_passwords(_setting("ENDPOINT"))
    for header in _setting("HEADERS").split(","):
        written = header.partition("=")[2].strip()
        meant = unquote(written)
        yield from (written, meant, meant.rpartition(" ")[2])
