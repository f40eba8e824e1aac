"""A Postgres with a large backlog of a paused account, and a service that serves its page beside it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import asyncpg
import psutil

from tests.bench import usage
from tests.support.outages import watched
from tests.support.processes import command, environment
from tests.support.web import address_of
from worker.config import AccountSettings
from worker.embedded import embedded_postgres
from worker.migrate import migrate
from worker.store import Store

NOWHERE = "http://127.0.0.1:1/v1"
_INSERT = """
    INSERT INTO caspen_sync.outbox (appointment_id, changes)
    SELECT 'app_' || i, '{"note": null}' FROM generate_series(1, $1::int) AS i
"""

More = Callable[[asyncpg.Connection], Awaitable[None]]


async def _no_more(_: asyncpg.Connection) -> None:
    """The backlog is all there is."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Who runs beside the backlog."""

    address: str
    """Of the service's page."""
    service_pid: int
    postmaster_pid: int

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds so far: of the server with all its processes, those that have ended included, and of the
        service."""
        return usage.family_cpu_s(self.postmaster_pid), usage.cpu_s(self.service_pid)


@contextlib.asynccontextmanager
async def backlog(rows: int, more: More = _no_more) -> AsyncIterator[Beside]:
    """So many changes pending, all taken in. `more`: writes what else there is to be, before tables are vacuumed."""
    with embedded_postgres() as dsn:
        async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool, pool.acquire() as conn:
            await migrate(conn)
            await conn.execute("SET statement_timeout = 0")
            postmaster = psutil.Process(await conn.fetchval("SELECT pg_backend_pid()")).parent()
            assert postmaster
            store = Store(pool, worker="bench")
            await store.register({"default": AccountSettings()}, timeout_s=30)
            await conn.execute(_INSERT, rows, timeout=600)
            while await store.take_in(["default"]):
                pass
            await more(conn)
            await conn.execute("VACUUM ANALYZE", timeout=600)
        # Nothing is sent, so nothing disturbs.
        env = environment(dsn, NOWHERE, {"HTTP__LISTEN": "127.0.0.1:0"})
        assert (await command("pause", "default", env=env)).exit_code == 0
        async with watched(env) as service:
            yield Beside(await address_of(service), service.process.pid, postmaster.pid)
