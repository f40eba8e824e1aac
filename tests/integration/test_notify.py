"""What systemd hears of a service, message by message, on a socket of the test's own."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.processes import TOKEN, environment, services, start, stop
from tests.support.systemd import notify_socket
from tests.support.waiting import eventually
from worker.pulse import LONGEST_STEP_S, Pulse
from worker.sandbox import Sandbox, SandboxSettings

NOTE = "a note"


@pytest.mark.long
async def test_the_life_of_a_service(database: Database) -> None:
    """READY once the database is there; WATCHDOG at least twice in the watchdog's time; a line of figures; RELOADING
    and READY again for SIGHUP; STOPPING, and nothing more."""
    for number in range(3):
        await database.write(f"app_{number}", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox, notify_socket() as systemd:
        env = environment(database.dsn, sandbox.base_url) | systemd.environment(watchdog_s=1.2)
        async with services(1, env) as (worker,):
            ready = await systemd.wait_for("READY=1")
            assert ready.pid == worker.pid
            await eventually(lambda: len(systemd.heard("WATCHDOG=1")) >= 5)
            beats = [message.at for message in systemd.heard("WATCHDOG=1")]
            assert beats[-1] - beats[0] < 1.2 / 2 * (len(beats) - 1)
            await eventually(lambda: any("3 changes synced" in m.text for m in systemd.heard("STATUS=")))

            since = time.monotonic()
            worker.send_signal(signal.SIGHUP)
            reloading = await systemd.wait_for("RELOADING=1", since=since)
            assert reloading.has("MONOTONIC_USEC=")
            assert (await systemd.wait_for("READY=1", since=since)).at >= reloading.at

            assert await stop(worker) == 0
            stopping = await systemd.wait_for("STOPPING=1")
            assert not systemd.heard("READY=1", since=stopping.at)


async def test_not_ready_before_the_schema(empty_database: str) -> None:
    """A service that cannot work never says that it is ready."""
    async with notify_socket() as systemd:
        env = environment(empty_database, "http://127.0.0.1:9/v1") | systemd.environment()
        worker = await start("run", env=env)
        await worker.communicate()
        assert worker.returncode == 78
        assert not systemd.messages


@pytest.mark.long
async def test_a_stopped_process_is_silent(database: Database) -> None:
    """Whatever holds up the event loop holds up the watchdog's message too: here the whole process."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox, notify_socket() as systemd:
        env = environment(database.dsn, sandbox.base_url) | systemd.environment(watchdog_s=0.3)
        async with services(1, env) as (worker,):
            await systemd.wait_for("WATCHDOG=1")
            worker.send_signal(signal.SIGSTOP)
            silent_since = time.monotonic()
            await eventually(lambda: time.monotonic() > silent_since + 0.7)
            assert not systemd.heard("WATCHDOG=1", since=silent_since + 0.2)
            worker.send_signal(signal.SIGCONT)
            await systemd.wait_for("WATCHDOG=1", since=silent_since + 0.2)
            assert await stop(worker) == 0


def test_a_part_that_does_not_keep_its_word_is_late() -> None:
    """A part that rests is not late before its rest and a step are over; one that waits to be woken never is."""
    now = 100.0
    pulse = Pulse(lambda: now)
    pulse.beat("loop", rests_s=5)
    pulse.beat("write_back")
    pulse.rest("write_back")
    now += 5 + LONGEST_STEP_S - 1
    assert pulse.late == []
    now += 2
    assert pulse.late == ["loop"]
    pulse.beat("loop")
    assert pulse.late == []


@pytest.mark.long
async def test_a_loop_that_hangs_stops_the_watchdog(database: Database, tmp_path: Path) -> None:
    """The event loop turns, but the engine's loop waits for something that never comes: the process says so in its log,
    and the watchdog hears nothing more."""
    hang = tmp_path / "sitecustomize.py"
    hang.write_text(
        """
import asyncio, worker.pulse, worker.store
worker.pulse.LONGEST_STEP_S = 0.5
take_in, calls = worker.store.Store.take_in, 0
async def hangs(self, accounts):
    global calls
    calls += 1
    if calls > 1:
        await asyncio.Event().wait()
    return await take_in(self, accounts)
worker.store.Store.take_in = hangs
""",
        encoding="utf-8",
    )
    checkout = str(Path(__file__).parents[2])
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox, notify_socket() as systemd:
        env = environment(database.dsn, sandbox.base_url) | systemd.environment(watchdog_s=0.3)
        env["PYTHONPATH"] = f"{tmp_path}:{checkout}"
        worker = await start("run", env=env)
        said = asyncio.create_task(worker.communicate())
        await systemd.wait_for("WATCHDOG=1")
        await eventually(lambda: time.monotonic() - systemd.heard("WATCHDOG=1")[-1].at > 1.0, what="it is silent")
        since = time.monotonic()
        worker.send_signal(signal.SIGHUP)
        await systemd.wait_for("RELOADING=1", since=since)  # the process is there, and only its work is not
        assert not systemd.heard("WATCHDOG=1", since=since)
        worker.kill()
        _, err = await said
        assert '"event": "work_stuck"' in err.decode()
        assert '"parts": ["loop"]' in err.decode()
