"""When requests are traced, and how long the end waits for the last spans."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from worker import clock, privacy
from worker.tracing import FLUSH_AT_LEAST_S, FLUSH_S, Ending, traced

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
FOR_TRACES = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}
# Where tracing is asked for, this is refused before anything is begun.
GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


class Log:
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.said.append(f"{event} {fields['reason']}")


def begun(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> list[str]:
    """What is said when a process with this environment begins."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    log = Log()

    async def process() -> None:
        async with traced("https://api.example/v1", worker="w", log=log):
            pass

    asyncio.run(process())
    return log.said


@pytest.mark.parametrize(
    ("env", "asked"),
    [
        ({}, False),
        (ENDPOINT, True),
        (FOR_TRACES, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "console"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "console, OTLP"}, True),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": ""}, True),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false"}, True),
    ],
)
def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], asked: bool) -> None:
    """An endpoint for traces, and neither the SDK nor the exporter switched off."""
    assert bool(begun(monkeypatch, GRPC | env)) == asked


def test_a_protocol_that_we_do_not_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said in one line, with what to do; what is set for traces beats what is set for all."""
    (said,) = begun(monkeypatch, ENDPOINT | GRPC)
    assert "tracing_unavailable" in said
    assert "http/protobuf" in said
    assert not begun(monkeypatch, GRPC | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"})


@pytest.mark.parametrize("signal", ["", "TRACES_"])
def test_the_collectors_secrets_are_withheld(monkeypatch: pytest.MonkeyPatch, signal: str) -> None:
    """Of each header the value, as written and as meant, and what follows its scheme; and the endpoint's password."""
    monkeypatch.setattr(privacy, "_secrets", set())
    headers = "authorization=Bearer%20s3cr3t%2Ftoken, x-api-key = another-key"
    endpoint = {f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT": "http://me:pass-word@127.0.0.1:4318"}
    begun(monkeypatch, GRPC | endpoint | {f"OTEL_EXPORTER_OTLP_{signal}HEADERS": headers})
    for text in ("Bearer%20s3cr3t%2Ftoken", "Bearer s3cr3t/token", "s3cr3t/token", "another-key", "pass-word"):
        assert privacy.redacted(f"so it is {text}.") == "so it is [withheld]."


def test_the_end_waits_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the process has, at most FLUSH_S; a moment when it has nothing; and a later limit takes no earlier one
    back."""
    now = 1000.0
    monkeypatch.setattr(clock, "now", lambda: now)
    ending = Ending()
    assert ending.flush_s == FLUSH_S
    ending.within(1.5)
    ending.within(30)
    assert ending.flush_s == 1.5
    now += 1
    assert ending.flush_s == 0.5
    now += 1
    assert ending.flush_s == FLUSH_AT_LEAST_S
    assert Ending(ends_at=now + 1).flush_s == 1
