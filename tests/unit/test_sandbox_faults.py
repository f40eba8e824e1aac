"""The faults: which request meets one, and what each looks like to a real client."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.support.waiting import eventually
from worker.sandbox import FAULT_NAMES, Entry, Sandbox, SandboxSettings
from worker.sandbox.faults import Fault, FaultPlan

AUTH = {"Authorization": "Bearer sandbox"}


@asynccontextmanager
async def running(fault: str, **options: Any) -> AsyncIterator[tuple[Sandbox, aiohttp.ClientSession]]:
    settings = SandboxSettings(limit=1000, faults={fault: 1.0}, **options)
    async with Sandbox(settings) as sandbox, aiohttp.ClientSession(headers=AUTH) as session:
        yield sandbox, session


async def update(
    sandbox: Sandbox, session: aiohttp.ClientSession, changes: Any = None, **options: Any
) -> tuple[int, Any]:
    body = {"note": "new"} if changes is None else changes
    async with session.post(f"{sandbox.base_url}/appointments/app_1", json=body, **options) as answer:
        return answer.status, await answer.json()


def note(sandbox: Sandbox) -> str | None:
    resource = sandbox.appointments.get("app_1")
    return None if resource is None else resource["note"]


def only(sandbox: Sandbox) -> Entry:
    (entry,) = sandbox.log
    return entry


@pytest.mark.parametrize(("fault", "status"), [("http_500", 500), ("http_502", 502), ("http_503", 503)])
async def test_a_server_fault_is_answered_and_not_applied(fault: str, status: int) -> None:
    """The status, rate headers as ever, and no effect."""
    async with running(fault) as (sandbox, session):
        async with session.post(f"{sandbox.base_url}/appointments/app_1", json={"note": "new"}) as answer:
            assert answer.status == status
            assert answer.headers["X-RateLimit-Remaining"] == "999"
        assert note(sandbox) is None
        assert (only(sandbox).fault, only(sandbox).http_status, only(sandbox).applied) == (fault, status, False)


@pytest.mark.parametrize(("fault", "applied"), [("reset_before", False), ("reset_after", True)])
async def test_a_reset_is_a_real_one(fault: str, applied: bool) -> None:
    """The client's socket sees ECONNRESET; the update took effect only for `reset_after`."""
    async with running(fault) as (sandbox, session):
        with pytest.raises(aiohttp.ClientOSError) as failure:
            await update(sandbox, session)
        assert failure.value.errno == errno.ECONNRESET
        assert (note(sandbox) == "new") is applied
        assert (only(sandbox).fault, only(sandbox).http_status, only(sandbox).applied) == (fault, None, applied)
        assert not only(sandbox).in_flight


async def test_slow_takes_effect_after_the_client_has_gone() -> None:
    """The client's patience ends first, then the update is applied; nobody is left to answer."""
    async with running("slow", slow_s=0.2) as (sandbox, session):
        with pytest.raises(TimeoutError):
            await update(sandbox, session, timeout=aiohttp.ClientTimeout(total=0.05))
        assert note(sandbox) is None
        await eventually(lambda: not only(sandbox).in_flight)
        entry = only(sandbox)
        assert note(sandbox) == "new"
        assert entry.applied_at is not None
        assert entry.applied_at - entry.received_at >= 0.2
        assert entry.http_status is None


async def test_slow_answers_whoever_still_waits() -> None:
    """A patient client gets its answer."""
    async with running("slow", slow_s=0.05) as (sandbox, session):
        assert (await update(sandbox, session))[0] == 200


async def test_late_apply_lands_after_a_newer_update() -> None:
    """An update that was answered 504 overwrites a newer one when it lands; the log tells when."""
    async with running("late_apply", late_s=0.2) as (sandbox, session):
        assert (await update(sandbox, session, {"note": "old"}))[0] == 504
        late = only(sandbox)
        assert (late.in_flight, late.applied, note(sandbox)) == (False, False, None)
        sandbox.set_faults({})
        await update(sandbox, session, {"note": "new"})
        assert note(sandbox) == "new"
        await eventually(lambda: late.applied)
        assert note(sandbox) == "old"
        assert late.applied_at is not None
        assert late.answered_at is not None
        assert late.applied_at - late.answered_at >= 0.19


async def test_a_late_update_dies_with_the_server() -> None:
    """What is yet to land when the sandbox stops never does."""
    async with running("late_apply", late_s=60.0) as (sandbox, session):
        assert (await update(sandbox, session))[0] == 504
        await sandbox.stop()
        assert not only(sandbox).applied


async def test_cut_stops_short_of_the_content_length() -> None:
    """200 and the head are there, the body ends early, and the update took effect."""
    async with running("cut") as (sandbox, session):
        async with session.post(f"{sandbox.base_url}/appointments/app_1", json={"note": "new"}) as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        assert (note(sandbox), only(sandbox).http_status, only(sandbox).applied) == ("new", 200, True)


async def test_garbled_is_a_200_that_is_not_json() -> None:
    """The update took effect, and the answer cannot be read."""
    async with running("garbled") as (sandbox, session):
        with pytest.raises(ValueError, match="Unterminated string"):
            await update(sandbox, session)
        assert (note(sandbox), only(sandbox).http_status, only(sandbox).applied) == ("new", 200, True)


async def test_no_content_is_a_204() -> None:
    """The update took effect, and the answer has no body."""
    async with running("no_content") as (sandbox, session):
        async with session.post(f"{sandbox.base_url}/appointments/app_1", json={"note": "new"}) as answer:
            assert (answer.status, await answer.read()) == (204, b"")
            assert answer.headers["X-RateLimit-Remaining"] == "999"
        assert (note(sandbox), only(sandbox).applied) == ("new", True)


@pytest.mark.parametrize("fault", ["garbled", "no_content"])
async def test_a_refusal_is_never_dressed_up_as_a_success(fault: str) -> None:
    """A bad update stays a 422, and the log names no fault that did not happen."""
    async with running(fault) as (sandbox, session):
        assert (await update(sandbox, session, {"room_id": "x"}))[0] == 422
        assert (only(sandbox).fault, only(sandbox).applied) == (None, False)


async def test_a_request_that_is_refused_at_the_door_meets_no_fault() -> None:
    """401, 403 and 429 are answered as such, and use up none of the seed's numbers."""
    settings = SandboxSettings(limit=1, faults={"http_500": 1.0}, forbidden=("other",))
    async with Sandbox(settings) as sandbox, aiohttp.ClientSession() as session:
        tokens = ("wrong", "other", "sandbox", "sandbox")
        statuses = [(await update(sandbox, session, headers={"Authorization": f"Bearer {t}"}))[0] for t in tokens]
        assert statuses == [401, 403, 500, 429]


async def test_the_same_seed_gives_the_same_faults_over_http() -> None:
    """Two sandboxes with one seed treat the same requests alike, and another seed does not."""

    async def faults(seed: int) -> list[str | None]:
        probabilities = {"http_500": 0.3, "http_503": 0.3}
        async with Sandbox(SandboxSettings(limit=1000, faults=probabilities, seed=seed)) as sandbox:
            async with aiohttp.ClientSession(headers=AUTH) as session:
                for _ in range(40):
                    await update(sandbox, session)
            return [entry.fault for entry in sandbox.log]

    assert await faults(1) == await faults(1) != await faults(2)


def test_faults_come_as_often_as_they_should() -> None:
    """Each fault strikes about as often as its probability says, and a sure one always."""
    plan = FaultPlan({"cut": 0.2, "slow": 0.05}, seed=3)
    struck = [plan.draw() for _ in range(20_000)]
    assert struck.count(Fault.CUT) == pytest.approx(4000, rel=0.05)
    assert struck.count(Fault.SLOW) == pytest.approx(1000, rel=0.1)
    sure = FaultPlan({"garbled": 1}, seed=3)
    assert all(sure.draw() is Fault.GARBLED for _ in range(1000))


def test_replacing_the_faults_goes_on_in_the_row_of_numbers() -> None:
    """A pause without faults moves the row on, so that what comes after it hangs on the seed and the order alone."""
    steady, paused = FaultPlan({"cut": 0.5}, seed=5), FaultPlan({"cut": 0.5}, seed=5)
    paused.replace({})
    for _ in range(10):
        steady.draw()
        assert paused.draw() is None
    paused.replace({"cut": 0.5})
    assert [steady.draw() for _ in range(50)] == [paused.draw() for _ in range(50)]


def test_bad_faults_are_refused_and_change_nothing() -> None:
    """The error names the faults there are, or the range."""
    plan = FaultPlan({"cut": 0.5})
    bad: list[tuple[dict[str, object], str]] = [
        ({"http_418": 0.1}, ", ".join(FAULT_NAMES)),
        ({"cut": 1.1}, "from 0 to 1"),
        ({"cut": float("nan")}, "from 0 to 1"),
        ({"cut": True}, "from 0 to 1"),
        ({"cut": "0.1"}, "from 0 to 1"),
        ({"cut": 0.6, "slow": 0.6}, "together"),
    ]
    for probabilities, words in bad:
        with pytest.raises(ValueError, match=words):
            plan.replace(probabilities)
    assert plan.probabilities == {Fault.CUT: 0.5}
