"""The sandbox as a server: its log, its latency, and stopping and starting."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from tests.support.sandbox import running
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, token_label

if TYPE_CHECKING:
    from pathlib import Path


async def update(sandbox: Sandbox, session: aiohttp.ClientSession, path: str = "app_1", **options: Any) -> int:
    if "data" not in options:
        options["json"] = {"note": "x"}
    async with session.post(f"{sandbox.base_url}/appointments/{path}", **options) as answer:
        return answer.status


async def test_the_log_tells_what_happened(tmp_path: Path) -> None:
    """Each request has an entry: its times in order, its body, its answer and no token, in memory and on file."""
    file = tmp_path / "requests.jsonl"
    before = time.time()
    async with running(log_file=file, limit=2) as (sandbox, session):
        await update(sandbox, session)
        await update(sandbox, session, data=b"not json")
        await update(sandbox, session)
        await update(sandbox, session, headers={"Authorization": "Bearer wrong"})
        log = sandbox.log
        assert [entry.seq for entry in log] == [1, 2, 3, 4]
        assert [entry.http_status for entry in log] == [200, 400, 429, 401]
        assert [entry.body for entry in log] == [{"note": "x"}, "not json", {"note": "x"}, {"note": "x"}]
        assert [entry.throttled for entry in log] == [False, False, True, False]
        assert [entry.remaining for entry in log] == [1, 0, 0, None]
        assert [entry.applied for entry in log] == [True, False, False, False]
        assert [entry.token for entry in log] == [token_label("sandbox")] * 3 + [token_label("wrong")]
        assert {entry.method for entry in log} == {"POST"}
        first = log[0]
        assert first.applied_at is not None
        assert first.answered_at is not None
        assert before - 0.1 < first.received_at <= first.applied_at <= first.answered_at < time.time() + 0.1
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["applied"] is True
    assert "Bearer" not in file.read_text()
    assert "wrong" not in file.read_text()


async def test_a_request_in_flight_is_in_the_log() -> None:
    """Before its answer an entry has no `answered_at`; half-way the update has taken effect already."""
    async with running(latency_s=0.2) as (sandbox, session):
        request = asyncio.create_task(update(sandbox, session))
        await eventually(lambda: sandbox.log and sandbox.log[0].applied, every_s=0.005)
        assert sandbox.log[0].in_flight
        assert sandbox.log[0].http_status is None
        await request
        entry = sandbox.log[0]
        assert entry.answered_at is not None
        assert 0.19 < entry.answered_at - entry.received_at < 2


async def test_latency_varies_within_its_jitter() -> None:
    """Answers take the latency, more or less by the jitter, and not all the same."""
    async with running(latency_s=0.03, latency_jitter_s=0.02, seed=1) as (sandbox, session):
        await asyncio.gather(*(update(sandbox, session, path=f"app_{number}") for number in range(20)))
        took = [(entry.answered_at or 0) - entry.received_at for entry in sandbox.log]
        assert min(took) >= 0.009
        assert max(took) - min(took) > 0.005


async def test_an_update_takes_effect_though_its_client_has_gone() -> None:
    """A client that stops waiting does not stop the server: the entry ends without an answer, but applied."""
    async with running(latency_s=0.2) as (sandbox, session):
        with pytest.raises(TimeoutError):
            await update(sandbox, session, timeout=aiohttp.ClientTimeout(total=0.03))
        await eventually(lambda: not sandbox.log[0].in_flight, every_s=0.005)
        assert (sandbox.log[0].applied, sandbox.log[0].http_status) == (True, None)


async def test_stopping_and_starting_again_keeps_everything() -> None:
    """While stopped the port refuses; afterwards the port, the appointments, the log and the counts are as before."""
    async with running(limit=2) as (sandbox, session):
        url = sandbox.base_url
        await update(sandbox, session)
        await sandbox.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", URL(url).port)
        await sandbox.start()
        assert sandbox.base_url == url
        async with session.get(f"{url}/appointments/app_1") as answer:
            assert (await answer.json())["note"] == "x"
            assert answer.headers["X-RateLimit-Remaining"] == "0"
        assert [entry.seq for entry in sandbox.log] == [1, 2]


async def test_stopping_ends_what_is_in_flight() -> None:
    """Stopping does not wait for a slow request, whether its client still waits or has gone; neither is applied."""
    async with running(faults={"slow": 1.0}, slow_s=60.0) as (sandbox, session):
        with pytest.raises(TimeoutError):
            await update(sandbox, session, timeout=aiohttp.ClientTimeout(total=0.05))
        waiting = asyncio.create_task(update(sandbox, session))
        await eventually(lambda: len(sandbox.log) == 2, every_s=0.005)
        async with asyncio.timeout(20):
            await sandbox.stop()
            with pytest.raises(aiohttp.ClientError):
                await waiting
        assert [(entry.in_flight, entry.applied) for entry in sandbox.log] == [(False, False)] * 2
