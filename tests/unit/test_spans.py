"""What of a writer's `traceparent` becomes a link, and what is said of what OpenTelemetry has to say."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.otlp import traceparent
from worker import clock
from worker.merge import Change
from worker.spans import MAX_LINKS, REMIND_S, Complaints, links


def change(number: int, text: str | None) -> Change:
    return Change(id=number, changes={"room_id": 1}, traceparent=text)


def linked(*texts: str | None) -> list[tuple[int, int]]:
    """The ids that a fold of changes with these is linked to."""
    found = links([change(number, text) for number, text in enumerate(texts)])
    return [(link.context.trace_id, link.context.span_id) for link in found]


def test_the_newest_ones_are_linked() -> None:
    """Of more than a span may have, those of the newest changes; one that many changes share counts once."""
    texts = [traceparent(1, number) for number in range(1, 301)]
    assert linked(*texts) == [(1, number) for number in range(300, 300 - MAX_LINKS, -1)]
    assert linked(*texts, *["nonsense"] * 300, *texts[:2] * 200)[:3] == [(1, 2), (1, 1), (1, 300)]


@given(st.one_of(st.text(), st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")))
def test_any_text_is_a_trace_context_or_nothing(text: str) -> None:
    """Whatever a writer stores, nothing raises, and a link has the two numbers that stand in it, neither of them 0."""
    for trace, span in linked(text, None, ""):
        assert trace > 0
        assert span > 0
        assert re.match(rf"\s*[0-9a-f]{{2}}-{trace:032x}-{span:016x}-[0-9a-f]{{2}}", text)


class Log:
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.said.append({"event": event, **fields})


@pytest.fixture
def library() -> Iterator[logging.Logger]:
    """A logger of OpenTelemetry's, and its logging as it was when the test is over."""
    above = logging.getLogger("opentelemetry")
    handlers, propagates = above.handlers[:], above.propagate
    yield logging.getLogger("opentelemetry.exporter.test")
    above.handlers, above.propagate = handlers, propagates


def test_losses_are_said_once_in_a_while(library: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first at once, the next after REMIND_S, with how many there were; a warning, after which it tries again, only
    tells why. Nothing is said after the end."""
    now = 1000.0
    monkeypatch.setattr(clock, "now", lambda: now)
    log = Log()
    complaints = Complaints(log)
    library.warning("Transient error %s, retrying in %.2fs.", ConnectionResetError("secret"), 1.0)
    assert log.said == []
    for _ in range(3):
        library.error("Failed to export %s batch.", "spans")
    now += REMIND_S - 1
    library.error("Failed to export %s batch code: %s, reason: %s", "spans", 401, "secret")
    assert log.said == [{"event": "traces_lost", "error": "ConnectionResetError", "times": 1}]
    now += 1
    library.error("Failed to export %s batch code: %s, reason: %s", "spans", 503, "Service Unavailable")
    assert log.said[1:] == [{"event": "traces_lost", "error": "503 Service Unavailable", "times": 4}]
    complaints.close()
    now += 2 * REMIND_S
    library.error("Failed")
    complaints.lost()
    assert len(log.said) == 2


@pytest.mark.parametrize("by", ["error", "exception"])
def test_the_origin_of_a_chain_is_told(library: logging.Logger, by: str) -> None:
    """Libraries wrap: what began it says more than what came of it. No words of either."""
    log = Log()
    complaints = Complaints(log)
    try:
        try:
            raise ConnectionRefusedError("secret")
        except OSError as error:
            raise RuntimeError("secret") from error
    except RuntimeError as error:
        getattr(library, by)("Failed: %s", *([error] if by == "error" else ["secret"]))
    complaints.close()
    assert log.said == [{"event": "traces_lost", "error": "ConnectionRefusedError", "times": 1}]
