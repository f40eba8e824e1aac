"""The control side over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from yarl import URL

from worker.sandbox import FAULT_NAMES, Sandbox, SandboxSettings

Running = tuple[Sandbox, aiohttp.ClientSession]


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """A sandbox, and a client that sends no token of its own accord."""
    async with Sandbox(SandboxSettings(limit=3)) as sandbox, aiohttp.ClientSession() as session:
        yield sandbox, session


async def update(running: Running, appointment: str = "app_1", token: str = "sandbox") -> int:
    sandbox, session = running
    url = f"{sandbox.base_url}/appointments/{appointment}"
    async with session.post(url, json={"note": "x"}, headers={"Authorization": f"Bearer {token}"}) as answer:
        return answer.status


async def put(running: Running, path: str, order: Any) -> tuple[int, Any]:
    sandbox, session = running
    async with session.put(f"{sandbox.control_url}/{path}", json=order) as answer:
        return answer.status, await answer.json()


async def test_the_log_is_json_lines_from_a_number_on(running: Running) -> None:
    """The whole log, or what came after a number that one has seen; asking costs nothing and is not logged."""
    sandbox, session = running
    for number in range(3):
        await update(running, f"app_{number}")
    for query, expected in (("", [1, 2, 3]), ("?since=1", [2, 3]), ("?since=3", []), ("?since=99", [])):
        async with session.get(f"{sandbox.control_url}/log{query}") as answer:
            assert answer.status == 200
            entries = [json.loads(line) for line in (await answer.text()).splitlines()]
        assert [entry["seq"] for entry in entries] == expected
    async with session.get(f"{sandbox.control_url}/log?since=-1") as answer:
        assert answer.status == 400
    assert sandbox.log[2].remaining == 0


async def test_an_appointments_state_is_shown_but_never_made(running: Running) -> None:
    """404 for what nobody has touched; otherwise the resource, whatever its id is made of."""
    sandbox, session = running
    async with session.get(f"{sandbox.control_url}/appointments/app_1") as answer:
        assert answer.status == 404
    assert sandbox.appointments == {}
    sandbox.appointments.add("app_a/b", note="seen")
    async with session.get(URL(f"{sandbox.control_url}/appointments/app_a%2Fb", encoded=True)) as answer:
        assert (answer.status, (await answer.json())["note"]) == (200, "seen")


async def test_faults_are_replaced_as_a_whole(running: Running) -> None:
    """New probabilities take the old ones' place; a bad one is 400, names the faults, and changes nothing."""
    assert await put(running, "faults", {"http_500": 1.0}) == (200, {"http_500": 1.0})
    assert await put(running, "faults", {"http_503": 1}) == (200, {"http_503": 1.0})
    status, body = await put(running, "faults", {"http_418": 1.0})
    assert status == 400
    assert all(name in body["message"] for name in FAULT_NAMES)
    assert (await put(running, "faults", [1]))[0] == 400
    assert await update(running) == 503
    await put(running, "faults", {})
    assert await update(running) == 200


async def test_tokens_are_replaced_and_keep_their_counts(running: Running) -> None:
    """A token is revoked, forbidden and accepted again; what it has used stays counted."""
    assert await update(running) == 200
    assert await put(running, "tokens", {"accepted": ["new"]}) == (200, {"accepted": 1, "forbidden": 0})
    assert (await update(running), await update(running, token="new")) == (401, 200)
    await put(running, "tokens", {"accepted": ["sandbox"], "forbidden": ["sandbox"]})
    assert await update(running) == 403
    await put(running, "tokens", {"accepted": ["sandbox"]})
    assert [await update(running), await update(running)] == [200, 429]
    bad: list[Any] = [{"accepted": "sandbox"}, {"accepted": [1]}, {"accepted": [""]}, {"tokens": []}, "x"]
    for order in bad:
        assert (await put(running, "tokens", order))[0] == 400


async def test_latency_is_replaced(running: Running) -> None:
    """Answers take the new latency from then on; a bad one is 400 and changes nothing."""
    sandbox, _ = running
    assert (await put(running, "latency", {"latency_s": 0.05}))[0] == 200
    for order in ({"latency_s": -1}, {"latency_s": "1"}, {"latency_s": True}, {"seconds": 1}):
        assert (await put(running, "latency", order))[0] == 400
    await update(running)
    entry = sandbox.log[0]
    assert entry.answered_at is not None
    assert entry.answered_at - entry.received_at >= 0.045


async def test_what_is_not_there_is_404(running: Running) -> None:
    """Neither side answers for the other's paths."""
    sandbox, session = running
    origin = sandbox.base_url.removesuffix("/v1")
    for path in ("/", "/_sandbox", "/_sandbox/x", "/appointments/app_1", "/v1"):
        async with session.get(origin + path) as answer:
            assert answer.status == 404
    assert sandbox.log == []
