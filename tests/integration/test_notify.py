"""What the service tells systemd of itself, message by message, on a socket of the test's own."""

from __future__ import annotations

import asyncio
import signal

from tests.support.database import Database
from tests.support.processes import TOKEN, environment, services, stop
from tests.support.rawserver import closed_port
from tests.support.systemd import notify_socket
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings


async def test_from_ready_to_stopping(database: Database) -> None:
    """READY once the database is reached, STATUS, WATCHDOG at least twice in its time, RELOADING and READY around
    SIGHUP, STOPPING at SIGTERM; and all of it from the process itself."""
    async with notify_socket() as heard, Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(database.dsn, sandbox.base_url) | heard.environment(watchdog_s=3)
        async with services(1, env) as (service,):
            await heard.wait_for("READY=1")
            await heard.wait_for("STATUS=")
            first = await heard.wait_for("WATCHDOG=1")
            second = await heard.wait_for("WATCHDOG=1", since=first.at)
            assert second.at - first.at < 2.25
            service.send_signal(signal.SIGHUP)
            reloading = await heard.wait_for("RELOADING=1")
            assert reloading.has("MONOTONIC_USEC=")
            reloaded = await heard.wait_for("READY=1", since=reloading.at - 1e-9)
            assert heard.messages.index(reloading) < heard.messages.index(reloaded)
            assert heard.heard("STOPPING=1") == []
            assert await stop(service) == 0
            await heard.wait_for("STOPPING=1")
        assert {message.pid for message in heard.messages} == {service.pid}


async def test_not_ready_without_a_database() -> None:
    """A service whose database hangs up was never ready, however often it tries."""
    calls = 0

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.close()

    async with notify_socket() as heard, await asyncio.start_server(hang_up, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        env = environment(f"postgresql://127.0.0.1:{port}/clinic", f"http://127.0.0.1:{closed_port()}/v1")
        async with services(1, env | heard.environment()) as (service,):
            await eventually(lambda: calls > 1 or service.returncode is not None, what="it tries again, or gives up")
        assert calls
        assert heard.heard("READY=1") == []
