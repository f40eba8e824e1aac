"""What one test needs for many runs: an event loop, and connections that stay, so that a run costs no connecting."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from tests.model.api import Api
from tests.model.audit import Audit
from tests.model.clock import SCHEMA, SEARCH_PATH, Clock
from tests.model.leases import Leases
from tests.model.ledger import Ledger
from tests.model.people import People
from tests.model.run import Run
from tests.model.wire import Request
from tests.model.workers import Surroundings
from tests.model.writers import Writer, Writers
from worker import clock as worker_clock
from worker import sender
from worker.config import DatabaseSettings, Settings
from worker.database import connect_options
from worker.store import Store
from worker.token import account_token

WRITERS = 3


@dataclass(slots=True, eq=False, kw_only=True)
class Stage:
    """Runs one after the other, each with an account of its own."""

    loop: asyncio.AbstractEventLoop
    pool: asyncpg.Pool
    """As a worker makes it, in simulated time."""
    control: asyncpg.Connection
    writers: list[Writer]
    clock: Clock
    runs: int = 0
    steps: int = 0
    changes: int = 0
    requests: int = 0
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def begin(self, chance: random.Random, *, hostile: bool, workers: int, **settings_of: Any) -> Run:
        """Another run. `settings_of`: see `_settings`."""
        self.runs += 1
        account = f"clinic-{next(self._numbers)}"
        settings = _settings(account, **settings_of)
        await Store(self.pool, worker="model").register(settings.accounts, timeout_s=settings.api.timeout_s)
        ledger, on_wire = Ledger(), list[Request]()
        leases = Leases(settings.api.timeout_s, on_wire)
        limits = settings.accounts[account]
        api = Api(
            limit=limits.rate_limit,
            window_s=limits.rate_window_s,
            timeout_s=settings.api.timeout_s,
            folds=settings.worker.coalesce,
            ledger=ledger,
            leases=leases,
            now=self.clock.now,
        )
        around = Surroundings(
            account=account,
            settings=settings,
            pool=self.pool,
            clock=self.clock,
            leases=leases,
            on_wire=on_wire,
            token=account_token(account, limits),
        )
        run = Run(
            around=around,
            control=self.control,
            api=api,
            writers=Writers(self.writers, self.control, account, ledger),
            people=People(self.pool, account, settings, ledger),
            audit=Audit(self.control, account, ledger, api),
            chance=chance,
            hostile=hostile,
        )
        for _ in range(workers):
            run.hire()
        return run

    def ended(self, run: Run) -> None:
        """Counts what it did."""
        self.changes += len(run.audit.ledger.committed)
        self.requests += len(run.around.on_wire)


@contextmanager
def staged(dsn: str) -> Iterator[Stage]:
    """A stage on a migrated database, in simulated time."""
    clock = Clock()
    loop = asyncio.new_event_loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_clock, "now", clock.now)
        # A quick retry waits for a moment in which nobody else does anything, and so for nothing.
        patch.setattr(sender, "QUICK_BASE_S", 0.0)
        stage = loop.run_until_complete(_open(dsn, loop, clock))
        try:
            yield stage
        finally:
            stage.pool.terminate()
            for conn in (stage.control, *(writer.conn for writer in stage.writers)):
                conn.terminate()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


async def _open(dsn: str, loop: asyncio.AbstractEventLoop, clock: Clock) -> Stage:
    control = await asyncpg.connect(dsn)
    await control.execute(SCHEMA)
    await clock.move_to(control, clock.now())
    options: dict[str, Any] = connect_options(DatabaseSettings.model_validate({"dsn": dsn}))
    options["server_settings"]["search_path"] = SEARCH_PATH
    pool = await asyncpg.create_pool(min_size=1, max_size=4, **options)
    conns = [await asyncpg.connect(dsn) for _ in range(WRITERS)]
    writers = [Writer(conn, await conn.fetchval("SELECT pg_backend_pid()")) for conn in conns]
    return Stage(loop=loop, pool=pool, control=control, writers=writers, clock=clock)


def _settings(account: str, *, limit: int, max_attempts: int, down_after: int, coalesce: bool) -> Settings:
    limits = {"rate_limit": limit, "live_reserve": 0.34, "token": "a-token-of-the-model"}
    retry = {"max_attempts": max_attempts, "down_after": down_after, "rejected_after": 2, "backoff_max_s": 60.0}
    return Settings.model_validate({"accounts": {account: limits}, "retry": retry, "worker": {"coalesce": coalesce}})
