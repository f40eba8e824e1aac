"""Collectors that are away, refuse, or hang: the work and its exit code are the same, the end comes in time, and the
log says it once."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.otlp import Collector, collector, tracing
from tests.support.processes import TOKEN, command, services, start
from tests.support.rawserver import closed_port
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings
from worker.tracing import FLUSH_S

HANGS_S = 3600.0
ALL_SYNCED = "SELECT bool_and(state = 'synced') FROM caspen_sync.outbox"
# What a loaded machine may take to end a process.
MARGIN_S = 0.9


def nobody() -> AbstractAsyncContextManager[Collector]:
    """A collector that is away."""

    @asynccontextmanager
    async def away():  # noqa: ANN202
        yield Collector(0, 0.0, url=f"http://127.0.0.1:{closed_port()}")

    return away()


def lost(stderr: str) -> list[str]:
    """Why spans were lost, by each line of the log that says so; there is no other line."""
    lines = [json.loads(line) for line in stderr.splitlines()]
    assert {line["event"] for line in lines} <= {"traces_lost"}
    assert all(line["worker"] for line in lines)
    return [line["error"] for line in lines]


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.parametrize(
    ("out_of_order", "why"),
    [
        (nobody, "ConnectionRefusedError"),
        (lambda: collector(status=500), "500 Internal Server Error"),
        (lambda: collector(answers_after_s=HANGS_S), "not delivered in time"),
        (lambda: collector(status=503), "Service Unavailable"),
        (lambda: collector(answers_after_s=0.7), None),
    ],
)
async def test_one_run(
    database: Database, out_of_order: Callable[[], AbstractAsyncContextManager[Collector]], why: str | None
) -> None:
    """Everything is synced, exit 0, not later than FLUSH_S after the last answer; one line says why spans are lost, and
    none does when the collector is merely slow."""
    for number in range(5):
        await database.write(f"app_{number}", {"note": NOTE})
    async with (
        out_of_order() as collected,
        Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, window_s=1)) as sandbox,
    ):
        ended = await command("run", "--once", env=tracing(collected.url, database.dsn, sandbox.base_url))
        ended_at = sandbox.now()
        assert ended_at - max(entry.answered_at or 0 for entry in sandbox.log) < FLUSH_S + MARGIN_S
    assert (ended.exit_code, await database.states()) == (0, {"synced": 5})
    assert lost(ended.stderr) == ([why] if why else [])


@pytest.mark.long
@pytest.mark.alone
async def test_max_runtime_is_kept(database: Database) -> None:
    """A run that works to its last moment has that much less for the collector."""
    await database.write("app_1", {"note": NOTE})
    async with (
        collector(answers_after_s=HANGS_S) as collected,
        Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, window_s=1, latency_s=60)) as sandbox,
    ):
        env = tracing(collected.url, database.dsn, sandbox.base_url, {"API__TIMEOUT_S": "5"})
        ended = await command("run", "--once", "--max-runtime", "3", env=env)
        assert ended.exit_code == 75
        assert sandbox.now() - sandbox.log[0].received_at < 3.0 + 0.4


@pytest.mark.long
@pytest.mark.alone
async def test_a_drain_is_in_time(database: Database) -> None:
    """SIGTERM: the request on the wire is answered and written back, and what the request's timeout leaves is all that
    the collector gets."""
    await database.write("app_1", {"note": NOTE})
    async with (
        collector(answers_after_s=HANGS_S) as collected,
        Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, window_s=1, latency_s=1.5)) as sandbox,
        services(1, tracing(collected.url, database.dsn, sandbox.base_url)) as (worker,),
    ):
        await eventually(lambda: len(sandbox.log) == 1)
        stopped_at = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0
        assert time.monotonic() - stopped_at < 2.0 + MARGIN_S
    assert await database.states() == {"synced": 1}


@pytest.mark.long
@pytest.mark.alone
async def test_a_second_signal_does_not_wait_for_it(database: Database) -> None:
    """Stopped at once means now, collector or not."""
    await database.write("app_1", {"note": NOTE})
    async with (
        collector(answers_after_s=HANGS_S) as collected,
        Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, window_s=1, latency_s=25)) as sandbox,
        services(1, tracing(collected.url, database.dsn, sandbox.base_url)) as (worker,),
    ):
        await eventually(lambda: len(sandbox.log) == 1)
        worker.send_signal(signal.SIGTERM)
        worker.send_signal(signal.SIGINT)
        async with asyncio.timeout(1.2):
            assert await worker.wait() == 75


@pytest.mark.long
async def test_a_service_says_it_once(database: Database) -> None:
    """A collector that refuses each batch: one line, though it happens again and again; the work goes on."""
    async with (
        collector(status=500) as collected,
        Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, window_s=1)) as sandbox,
    ):
        env = tracing(collected.url, database.dsn, sandbox.base_url) | {"OTEL_BSP_SCHEDULE_DELAY": "20"}
        service = await start("run", "--log-level", "warning", env=env)
        output = asyncio.create_task(service.communicate())

        async def refused_often() -> bool:
            await database.write("app_1", {"note": NOTE})
            return collected.requests >= 6

        await eventually(refused_often, what="six batches")
        await eventually(lambda: database.value(ALL_SYNCED), what="the rest")
        service.send_signal(signal.SIGTERM)
        _, err = await output
        assert service.returncode == 0
    assert lost(err.decode()) == ["500 Internal Server Error"]


@pytest.mark.long
async def test_a_minute_without_a_collector(database: Database) -> None:
    """As an operator would meet it, with OpenTelemetry's own times: one line in a minute."""
    async with nobody() as collected, Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, window_s=1)) as sandbox:
        env = tracing(collected.url, database.dsn, sandbox.base_url)
        service = await start("run", "--log-level", "warning", env=env)
        output = asyncio.create_task(service.communicate())
        ends_at = time.monotonic() + 60

        async def minute_over() -> bool:
            await database.write("app_1", {"note": NOTE})
            return time.monotonic() > ends_at

        await eventually(minute_over, limit_s=90, every_s=0.15, what="a minute")
        service.send_signal(signal.SIGTERM)
        _, err = await output
    assert service.returncode == 0
    assert lost(err.decode()) == ["ConnectionRefusedError"]
