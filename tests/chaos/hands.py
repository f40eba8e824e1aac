"""What goes wrong around the workers: each hand does one thing, for as long as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import asyncpg

from tests.chaos.disk import Disk
from tests.chaos.evidence import Terms
from tests.chaos.fleet import Fleet, Worker
from tests.chaos.network import Link
from tests.support.processes import TOKEN
from tests.support.servers import Server
from tests.support.waiting import eventually
from worker.sandbox import Sandbox


@dataclass(slots=True)
class Scene:
    """What the hands reach."""

    terms: Terms
    chance: random.Random
    fleet: Fleet
    server: Server
    disk: Disk
    sandbox: Sandbox
    to_api: Link
    to_database: Link
    done: Counter[str] = field(default_factory=Counter)
    """How often each hand did what it does."""

    def somebody(self) -> Worker:
        return self.chance.choice(self.fleet.workers)


Hand = Callable[[Scene], Awaitable[None]]


# -- the processes -----------------------------------------------------------------------------------------------------


async def kill(scene: Scene) -> None:
    """kill -9 of a worker."""
    scene.somebody().signal(signal.SIGKILL)


async def freeze(scene: Scene) -> None:
    """SIGSTOP of a worker for longer than its leases, then SIGCONT. It is chosen while requests are on the wire."""
    with contextlib.suppress(AssertionError):
        await eventually(lambda: _on_the_wire(scene), limit_s=1, every_s=0.005)
    worker = scene.somebody()
    worker.signal(signal.SIGSTOP)
    await asyncio.sleep(scene.terms.lease_s * scene.chance.uniform(1.0, 1.4))
    worker.signal(signal.SIGCONT)


def _on_the_wire(scene: Scene) -> bool:
    return any(entry.in_flight for entry in scene.sandbox.log[-scene.terms.limit :])


async def hiccup(scene: Scene) -> None:
    """SIGSTOP of a worker for less than its leases."""
    worker = scene.somebody()
    worker.signal(signal.SIGSTOP)
    await asyncio.sleep(scene.terms.lease_s * scene.chance.uniform(0.1, 0.9))
    worker.signal(signal.SIGCONT)


async def deploy(scene: Scene) -> None:
    """SIGTERM of a worker, which is then replaced."""
    scene.somebody().signal(signal.SIGTERM)


async def cron(scene: Scene) -> None:
    """`run --once` beside the services."""
    await scene.fleet.once("run", "--once", "--max-runtime", "5")


async def clocks(scene: Scene) -> None:
    """A worker's wall clock jumps by up to a day, either way, or its machine sleeps for a few seconds."""
    if scene.chance.random() < 0.5:
        scene.somebody().shift(wall_s=scene.chance.uniform(-86_400, 86_400), slept_s=0.0)
    else:
        worker, slept_s = scene.somebody(), scene.chance.uniform(0, 2 * scene.terms.lease_s)
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(slept_s)
        worker.shift(wall_s=0.0, slept_s=slept_s)
        worker.signal(signal.SIGCONT)


# -- the API and the way there -----------------------------------------------------------------------------------------


async def api_down(scene: Scene) -> None:
    """The API stops listening."""
    await scene.sandbox.stop()
    await asyncio.sleep(scene.chance.uniform(0.2, 1.5))
    await scene.sandbox.start()


async def api_away(scene: Scene) -> None:
    """The same, for as long as an outage takes in which workers look again and again."""
    await scene.sandbox.stop()
    await asyncio.sleep(scene.chance.uniform(2.5, 3.5))
    await scene.sandbox.start()


async def api_cut(scene: Scene) -> None:
    """Every connection to the API is reset, and new ones for a while."""
    await scene.to_api.down_for(scene.chance.uniform(0, 1))


async def api_dark(scene: Scene) -> None:
    """Nothing gets through to the API or back."""
    await scene.to_api.dark_for(scene.chance.uniform(0.1, 1.5 * scene.terms.timeout_s))


async def api_far(scene: Scene) -> None:
    """Everything to the API and back takes longer."""
    delay_s = scene.chance.uniform(0.01, scene.terms.timeout_s / 8)
    await scene.to_api.far_for(scene.chance.uniform(1, 4), delay_s=delay_s)


async def token_withdrawn(scene: Scene) -> None:
    """The API takes the token no more, for a while."""
    scene.sandbox.set_tokens(())
    await asyncio.sleep(scene.chance.uniform(0.1, 1))
    scene.sandbox.set_tokens((TOKEN,))


# -- the database and the way there ------------------------------------------------------------------------------------


async def database_cut(scene: Scene) -> None:
    """Every connection of the workers to the database is reset, and new ones for a while."""
    await scene.to_database.down_for(scene.chance.uniform(0, 1))


async def database_dark(scene: Scene) -> None:
    """Nothing gets through to the database or back; then it all does."""
    await scene.to_database.dark_for(scene.chance.uniform(0.1, 1.5 * scene.terms.lease_s))


async def database_lost(scene: Scene) -> None:
    """The same for longer than a lease: what was to be written back arrives too late."""
    await scene.to_database.dark_for(scene.terms.lease_s * scene.chance.uniform(1.0, 1.3))


async def database_far(scene: Scene) -> None:
    """Everything to the database and back takes longer."""
    delay_s = scene.chance.uniform(0.005, 0.1)
    await scene.to_database.far_for(scene.chance.uniform(1, 4), delay_s=delay_s)


async def postgres_fast(scene: Scene) -> None:
    """Postgres is restarted, and ends all sessions."""
    await scene.server.restart("fast")


async def postgres_immediate(scene: Scene) -> None:
    """Postgres is restarted without shutting down, and recovers from its log."""
    await scene.server.restart("immediate")


async def postgres_backend(scene: Scene) -> None:
    """kill -9 of one backend: Postgres ends all others, and recovers."""
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        conn = await asyncpg.connect(scene.server.dsn(), timeout=5)
        pids = await conn.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'caspen-sync'")
        conn.terminate()
        if pids:
            os.kill(scene.chance.choice(pids)["pid"], signal.SIGKILL)


async def disk_full(scene: Scene) -> None:
    """The database's disk is full, and then it is not."""
    await asyncio.to_thread(scene.disk.fill)
    await asyncio.sleep(scene.chance.uniform(0.5, 2.5))
    scene.disk.clear()
    await scene.server.start_unless_running()


async def cable_pulled(scene: Scene) -> None:
    """The cable of a worker's host is pulled, and plugged in again."""
    host = scene.chance.choice(scene.fleet.homes).host
    host.pull()
    await asyncio.sleep(scene.chance.uniform(0.2, 1.5 * scene.terms.lease_s))
    host.plug()


# -- people ------------------------------------------------------------------------------------------------------------


async def person(scene: Scene) -> None:
    """Somebody brings parked changes back, or discards them."""
    what = scene.chance.choice(("retry", "discard"))
    await scene.fleet.once("parked", what, "--all", "--yes")


PROCESSES: Mapping[str, Hand] = {
    "kill": kill,
    "freeze": freeze,
    "hiccup": hiccup,
    "deploy": deploy,
    "cron": cron,
    "clocks": clocks,
    "person": person,
}
SURROUNDINGS: Mapping[str, Hand] = {
    "api_down": api_down,
    "api_cut": api_cut,
    "api_dark": api_dark,
    "api_far": api_far,
    "token_withdrawn": token_withdrawn,
    "database_cut": database_cut,
    "database_dark": database_dark,
    "database_lost": database_lost,
    "database_far": database_far,
    "postgres_fast": postgres_fast,
    "postgres_immediate": postgres_immediate,
    "postgres_backend": postgres_backend,
    "disk_full": disk_full,
}
CABLES: Mapping[str, Hand] = {"cable_pulled": cable_pulled}
HANDS = {**PROCESSES, **SURROUNDINGS, **CABLES}
