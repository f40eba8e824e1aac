"""Two services at a steady load, for as long as wanted: memory, connections, files and tables must stay flat.

`python -m tests.chaos.soak --minutes 60`; it needs `pip install -e '.[test]'`. A Postgres of its own with autovacuum
and fsync, the sandbox in a process of its own with some faults, a writer of 20 changes a second below the budget, some
of them refused, and beside the services what people and cron do: prune, parked discard, run --once, backfill, pause
and resume, scrapes, the page. What is sampled and how much it may grow stands in `samples`, how that is judged in
`flatness`, the load in `load` and its times in `plan`. In the end all must be drained, and the rules must have held.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tests.bench.processes import ended
from tests.chaos import arguments
from tests.chaos.soak import ledger
from tests.chaos.soak.flatness import WARM_UP, Verdict
from tests.chaos.soak.load import Load, errand
from tests.chaos.soak.plan import SERVICES, Plan
from tests.chaos.soak.samples import Database, Quantity, Samples, Service, table
from tests.support.processes import Watched, environment, start, stop
from tests.support.rawserver import closed_port
from tests.support.servers import Server, migrated_cluster, server_on_a_copy
from tests.support.waiting import eventually
from tests.support.web import get
from worker.errors import first_of

MINUTES = 5.0
MINUTES_MIN, MINUTES_MAX = 0.5, 7 * 24 * 60.0
_SAYS_EVERY_S = 60.0
_READY_S = 60.0
_DRAIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Soaked:
    """How a soak went."""

    verdicts: Mapping[Quantity, Verdict]
    wrong: Sequence[str]
    """Rules that did not hold, in words."""
    told: str
    """What was done."""

    @property
    def flat(self) -> bool:
        return not any(verdict.broken for verdict in self.verdicts.values())

    def report(self) -> str:
        """The table, and what has to be known to read it."""
        return "\n".join([table(self.verdicts), "", self.told, *(f"WRONG: {one}" for one in self.wrong)])


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table. 0: all stayed flat and every rule held; 1: not so; 2: wrong arguments."""
    first, rest = (__doc__ or "").split("\n\n", maxsplit=1)
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.soak",
        description=first,
        epilog=rest
        + "\nexit codes: 0 all flat; 1 something grew, or a rule did not hold, and a line says what; 2 wrong "
        "arguments; 130 interrupted",
    )
    parser.add_argument(
        "--minutes",
        type=arguments.minutes(MINUTES_MIN, MINUTES_MAX),
        default=MINUTES,
        metavar="M",
        help=f"how long ({MINUTES:g}); starting not counted",
    )
    parser.add_argument(
        "--seed", type=arguments.seed, metavar="N", help="the same changes and faults; the times are chance"
    )
    args = parser.parse_args(argv)
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    plan = Plan(minutes=args.minutes, seed=seed)
    _say(f"soaking: --minutes {plan.minutes:g} --seed {seed}; the first {WARM_UP:.0%} are the warm-up")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or else Postgres would stay
    try:
        with migrated_cluster() as cluster:
            done = asyncio.run(soak(plan, cluster))
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except (AssertionError, TimeoutError) as error:
        _say(f"FAILED: {str(error) or type(error).__name__}")
        return 1
    print(done.report())
    return 0 if done.flat and not done.wrong else 1


async def soak(plan: Plan, cluster: Path) -> Soaked:
    """The whole of it. Raises AssertionError, or the error itself, when it cannot go on."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="caspen-sync-soak-")))
        server = await stack.enter_async_context(server_on_a_copy(cluster, **plan.postgres))
        log = folder / "requests.jsonl"
        api = await stack.enter_async_context(_sandbox(plan, log))
        env = environment(server.dsn(), api, plan.worker)
        running = await stack.enter_async_context(_services(env))
        conn = await asyncpg.connect(server.dsn(), server_settings={"application_name": "soak sampler"})
        stack.push_async_callback(conn.close, timeout=5)
        services = [one.service for one in running]
        _say(", ".join(f"{service.name} is process {service.pid} at {service.address}" for service in services))
        load = Load(plan, server.dsn(), env, tuple(service.address for service in services), folder)
        database = Database(conn, _postmaster(server), plan)
        samples = await _steady(load, database, running)
        return await _judge(samples, load, database, running, api=api, log=log)


@dataclass(frozen=True, slots=True)
class _Running:
    """A service's process, and all that it says."""

    process: Watched
    service: Service
    said: asyncio.Task[tuple[bytes, bytes]]

    def assert_alive(self) -> None:
        assert self.process.returncode is None, f"{self.service.name} ended with {self.process.returncode}"

    async def is_ready(self) -> bool:
        self.assert_alive()
        try:
            return (await get(f"http://{self.service.address}/readyz")).status == 200
        except OSError:
            return False


# -- the steady time ---------------------------------------------------------------------------------------------------


async def _steady(load: Load, database: Database, running: Sequence[_Running]) -> Samples:
    """Samples until the time is up. With the load it ends, and with the error of either."""
    samples = Samples()
    try:
        async with asyncio.TaskGroup() as parts:
            parts.create_task(load.run())
            await _sample(samples, load, database, running)
            load.over.set()
    except BaseExceptionGroup as group:
        for one in running:
            one.assert_alive()  # or else what others met with only came of that
        raise first_of(group) from group
    return samples


async def _sample(samples: Samples, load: Load, database: Database, running: Sequence[_Running]) -> None:
    began = time.monotonic()
    told, number = began, 0
    while (at_s := time.monotonic() - began) < load.plan.seconds:
        for one in running:
            one.assert_alive()
            held, _ = await one.service.sample()
            samples.add(at_s, held)
        samples.add(at_s, await database.sample())
        if time.monotonic() - told >= _SAYS_EVERY_S:
            told = time.monotonic()
            _say(f"{at_s / 60:.0f} min: {load.books.written:,} changes, {_now(samples)}")
        number += 1
        await asyncio.sleep(max(0.0, began + number * load.plan.every_s - time.monotonic()))


def _now(samples: Samples) -> str:
    newest = {one.what: points[-1][1] for one, points in samples.series.items()}
    memory = ", ".join(f"{value:.1f}" for what, value in newest.items() if what.endswith(": memory"))
    return f"memory {memory} MB, tables and indexes {newest['all tables and indexes']:.2f} MB"


# -- the end -----------------------------------------------------------------------------------------------------------


async def _judge(
    samples: Samples,
    load: Load,
    database: Database,
    running: Sequence[_Running],
    *,
    api: str,
    log: Path,
) -> Soaked:
    wrong: list[str] = []

    async def drained() -> bool:
        return await database.conn.fetchval(
            "SELECT NOT EXISTS (SELECT FROM caspen_sync.outbox WHERE state = 'pending')"
        )

    _say("draining")
    with _noted(wrong, "drain"):
        await eventually(drained, limit_s=_DRAIN_S, every_s=0.2, what="nothing is pending")
    for one in running:
        with _noted(wrong, one.service.name):
            _, metrics = await one.service.sample()
            lost = sum(metrics.values("caspen_sync_leases_lost_total").values())
            assert not lost, f"lost {lost:g} leases"
        with _noted(wrong, one.service.name):
            exit_code = await stop(one.process)
            assert exit_code == 0, f"ended with {exit_code} at SIGTERM"
        with _noted(wrong, one.service.name):
            assert b"Traceback" not in (await one.said)[1], "a traceback among its words"
    with _noted(wrong, "run --once"):
        done = await errand(load.env, "run", "--once")
        assert done.exit_code == 0, f"ended with {done.exit_code} though all was done: {done.stderr[-1000:]}"
    _say("auditing")
    requests = ledger.requests(log)
    with _noted(wrong, "audit"):
        await ledger.audit(load, requests, await ledger.remote(api, load.books))
    return Soaked(samples.verdicts(), wrong, _told(load, ledger.counted(requests)))


def _told(load: Load, requests: str) -> str:
    plan, books = load.plan, load.books
    errands = ", ".join(f"{count} x {what}" for what, count in sorted(books.errands.items()))
    return (
        f"--minutes {plan.minutes:g} --seed {plan.seed}, a sample each {plan.every_s:g} s, the first {WARM_UP:.0%} not "
        f"counted; {SERVICES} services, {books.written:,} changes to {plan.appointments} appointments, "
        f"{books.refused:,} of them to be refused, {books.pruned:,} deleted after {plan.retention_s:.0f} s; "
        f"{requests}; {errands}"
    )


@contextlib.contextmanager
def _noted(wrong: list[str], where: str) -> Iterator[None]:
    """What fails here is told with the table, and what comes after it is still looked at."""
    try:
        yield
    except (AssertionError, TimeoutError) as error:
        wrong.append(f"{where}: {str(error)[:2000] or type(error).__name__}")


# -- what runs ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _sandbox(plan: Plan, log: Path) -> AsyncIterator[str]:
    """Gives its base URL."""
    process = await start("sandbox", "--log-file", str(log), *plan.sandbox)
    async with ended(process):
        assert process.stdout
        async with asyncio.timeout(_READY_S):
            said = (await process.stdout.readline()).decode()
        assert said.startswith("sandbox at "), f"the sandbox does not start: {said}"
        yield said.removeprefix("sandbox at ").strip()


@contextlib.asynccontextmanager
async def _services(env: Mapping[str, str]) -> AsyncIterator[Sequence[_Running]]:
    """They are ready, and killed in the end unless they have ended."""
    running: list[_Running] = []
    try:
        for number in range(SERVICES):
            address = f"127.0.0.1:{closed_port()}"
            process = await start("run", "--listen", address, env=env)
            service = Service(f"service {number + 1}", process.pid, address)
            running.append(_Running(process, service, asyncio.create_task(process.communicate())))
        for one in running:
            await eventually(one.is_ready, limit_s=_READY_S, what=f"{one.service.name} is ready")
        yield running
    except BaseException:
        for one in running:
            with contextlib.suppress(ProcessLookupError):
                one.process.kill()
            _say(f"{one.service.name} said: {(await one.said)[1].decode(errors='replace')[-3000:]}")
        raise
    finally:
        for one in running:
            with contextlib.suppress(ProcessLookupError):
                one.process.kill()


def _postmaster(server: Server) -> int:
    return int((server.data / "postmaster.pid").read_text().split()[0])


def _say(text: str) -> None:
    """How far it is, beside the table."""
    print(text, file=sys.stderr, flush=True)
