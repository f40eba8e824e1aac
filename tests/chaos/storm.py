"""A storm: writers, workers, an API with faults, and hands that make things go wrong, all at once, for some time. Then
everything is mended, what is left is worked off, and the auditor judges."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import trustme

from tests.chaos.auditor import Violation, audit
from tests.chaos.casefile import casefile
from tests.chaos.disk import small_disk
from tests.chaos.evidence import Terms, gather, keep_history
from tests.chaos.fleet import Home, fleet_of
from tests.chaos.hands import PROCESSES, SURROUNDINGS, Hand, Scene
from tests.chaos.hosts import hosts
from tests.chaos.ledger import Ledger
from tests.chaos.network import link_to
from tests.chaos.writers import SECRET, Writers
from tests.support.certificates import ca_file, server_context
from tests.support.processes import TOKEN, environment
from tests.support.servers import Server, server_on_a_copy
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings
from worker.sandbox.throttle import ThrottleName

TERMS = Terms(limit=60, window_s=1.0, guard_s=0.05, timeout_s=2.0)
FAULTS = {
    "http_500": 0.01, "http_502": 0.01, "http_503": 0.02, "reset_before": 0.01, "reset_after": 0.02, "slow": 0.01,
    "late_apply": 0.01, "cut": 0.01, "garbled": 0.01, "no_content": 0.01,
}  # fmt: skip
# What the API holds up, and the network, is over within another timeout: longer than that nothing is promised. In
# timeouts.
SLOW = 1.3
LATE = 0.7
HOLDS = 0.5

# How often a hand is chosen, beside others.
_OFTEN = {"kill": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to happen."""

    seed: int
    seconds: float
    terms: Terms = TERMS
    processes: Mapping[str, Hand] = field(default_factory=lambda: PROCESSES)
    surroundings: Mapping[str, Hand] = field(default_factory=lambda: SURROUNDINGS)
    """One hand of each kind is at work at a time."""
    faults: Mapping[str, float] = field(default_factory=lambda: FAULTS)
    workers: int = 3
    writers: int = 4
    appointments: int = 200
    per_s: float = 60.0
    """Transactions a second: with these, the budget binds."""
    latency_s: float = 0.1
    throttle: ThrottleName = "rolling"
    guilty: float = 0.02
    """The share of changes that are to be refused, by us or by the API."""
    settings: Mapping[str, str] = field(default_factory=dict)
    hosts: int = 0
    """So many of the workers' own, for hands that pull cables. 0: they run here, behind links that fail."""
    code: Path | None = None
    """Another `worker/` and `sql/`."""
    prepare: Callable[[asyncpg.Connection], Awaitable[None]] | None = None
    """What is done to the database before."""
    drain_s: float = 180.0
    """How long the run at the end may take."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened."""

    plan: Plan
    hands: Mapping[str, int]
    faults: Mapping[str, int]
    changes: int
    transactions: int
    requests: int
    seconds: float
    violations: Sequence[Violation]
    casefile: str
    """What is known of those."""

    def assert_clean(self) -> None:
        """No rule was broken."""
        assert not self.violations, "\n".join([*map(str, self.violations[:20]), self.casefile])


async def storm(plan: Plan, cluster: Path) -> Outcome:
    """Runs it. `cluster`: a data directory with a migrated database."""
    began_at = time.monotonic()
    ledger = Ledger()
    async with _scene(plan, cluster) as scene:
        conn = await asyncpg.connect(scene.server.dsn())
        await ledger.open(conn)
        await keep_history(conn)
        if plan.prepare:
            await plan.prepare(conn)
        await conn.close()
        await scene.fleet.keep(plan.workers)
        await _alive(scene, plan.workers)
        await _rage(plan, scene, ledger)
        await _calm(plan, scene)
        violations, known = await _judge(scene, ledger)
        return Outcome(
            plan=plan,
            hands=scene.done,
            faults=Counter(str(entry.fault) for entry in scene.sandbox.log if entry.fault),
            changes=ledger.entered,
            transactions=ledger.transactions,
            requests=len(scene.sandbox.log),
            seconds=time.monotonic() - began_at,
            violations=violations,
            casefile=known,
        )


@contextlib.asynccontextmanager
async def _scene(plan: Plan, cluster: Path) -> AsyncIterator[Scene]:
    terms = plan.terms
    api = SandboxSettings(
        tokens=(TOKEN,),
        limit=terms.limit,
        window_s=terms.window_s,
        throttle=plan.throttle,
        latency_s=plan.latency_s,
        latency_jitter_s=plan.latency_s / 2,
        faults=plan.faults,
        slow_s=SLOW * terms.timeout_s,
        late_s=LATE * terms.timeout_s,
        seed=plan.seed,
    )
    postgres = {"track_commit_timestamp": "on", "max_wal_size": "64MB", "min_wal_size": "32MB"}
    with small_disk() as disk, tempfile.TemporaryDirectory() as folder:
        async with (
            server_on_a_copy(cluster, within=disk.folder, **postgres) as server,
            Sandbox(api) as sandbox,
            link_to(_port(sandbox), holds_s=HOLDS * terms.timeout_s) as to_api,
            link_to(server.port) as to_database,
        ):
            env = environment(
                server.dsn(port=to_database.port),
                f"http://127.0.0.1:{to_api.port}/v1",
                _settings(terms) | dict(plan.settings),
            )
            async with (
                _homes(plan, sandbox, server, Path(folder)) as homes,
                fleet_of(env, Path(folder), code=plan.code, homes=homes) as fleet,
            ):
                yield Scene(terms, random.Random(plan.seed), fleet, server, disk, sandbox, to_api, to_database)


@contextlib.asynccontextmanager
async def _homes(plan: Plan, sandbox: Sandbox, server: Server, folder: Path) -> AsyncIterator[Sequence[Home]]:
    """The hosts, with ways to the API, by TLS, and to the database: http:// and trust are for loopback."""
    homes: list[Home] = []
    authority = trustme.CA()
    async with contextlib.AsyncExitStack() as stack:
        for host in stack.enter_context(hosts(plan.hosts)):
            context = server_context(authority, host.here)
            api = await stack.enter_async_context(link_to(_port(sandbox), here=host.here, context=context))
            database = await stack.enter_async_context(link_to(server.port, here=host.here))
            env = {
                "API__BASE_URL": f"https://{host.here}:{api.port}/v1",
                "API__CA_FILE": str(ca_file(authority, folder)),
                "DATABASE__DSN": server.dsn(port=database.port).replace("127.0.0.1", host.here),
            }
            homes.append(Home(host, {f"CASPEN_SYNC_{name}": value for name, value in env.items()}))
        yield homes


def _port(sandbox: Sandbox) -> int:
    port = urlsplit(sandbox.base_url).port
    assert port
    return port


def _settings(terms: Terms) -> dict[str, str]:
    return {
        "API__TIMEOUT_S": str(terms.timeout_s),
        "ACCOUNTS__DEFAULT__RATE_LIMIT": str(terms.limit),
        "ACCOUNTS__DEFAULT__RATE_WINDOW_S": str(terms.window_s),
        "ACCOUNTS__DEFAULT__RATE_GUARD_S": str(terms.guard_s),
        # A day's worth of faults in some minutes: what is given up after 20 failures a day would be given up here.
        "RETRY__MAX_ATTEMPTS": "1000",
    }


async def _alive(scene: Scene, count: int) -> None:
    conn = await asyncpg.connect(scene.server.dsn())
    try:
        await eventually(
            lambda: conn.fetchval("SELECT count(*) >= $1 FROM caspen_sync.worker", count), what="the workers are up"
        )
    finally:
        await conn.close()


async def _rage(plan: Plan, scene: Scene, ledger: Ledger) -> None:
    """Everything at once, for as long as planned."""
    done = asyncio.Event()
    writers = Writers(
        scene.server.dsn(), ledger, appointments=plan.appointments, per_s=plan.per_s, seed=plan.seed, guilty=plan.guilty
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(writers.run(plan.writers, done))
        for hands in (plan.processes, plan.surroundings):
            if hands:
                group.create_task(_at_work(hands, scene, done))
        await asyncio.sleep(plan.seconds)
        done.set()


async def _at_work(hands: Mapping[str, Hand], scene: Scene, done: asyncio.Event) -> None:
    """One hand after the other, each with a pause of a moment or two."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(scene.chance.uniform(0.2, 1.2)):
                await done.wait()
        if done.is_set():
            return
        names = sorted(hands)
        name = scene.chance.choices(names, [_OFTEN.get(name, 1) for name in names])[0]
        if name == "disk_full" and not scene.disk.small:
            continue
        await hands[name](scene)
        scene.done[name] += 1


async def _calm(plan: Plan, scene: Scene) -> None:
    """Everything is mended, and what is left is worked off by a run of its own."""
    scene.to_api.mend()
    scene.to_database.mend()
    scene.sandbox.set_faults({})
    scene.disk.clear()
    await scene.server.start_unless_running()
    codes = await scene.fleet.end()
    # 69: it was just starting, and the database was away. 75: it had been told to stop before.
    badly = [code for code in codes if code not in (0, 69, 75, -15)]
    scene.fleet.ended_badly += [f"a service that was stopped ended with {code}" for code in badly]
    ends_at = time.monotonic() + plan.drain_s
    drain = ("run", "--once", "--max-runtime", str(plan.drain_s))
    while (ended := await scene.fleet.once(*drain)).exit_code not in (0, 65):
        if ended.exit_code not in (69, 75) or time.monotonic() > ends_at:
            scene.fleet.ended_badly.append(f"the drain ended with {ended.exit_code}: {ended.stderr[-600:]}")
            return


async def _judge(scene: Scene, ledger: Ledger) -> tuple[Sequence[Violation], str]:
    conn = await asyncpg.connect(scene.server.dsn())
    try:
        evidence = await gather(
            conn,
            ledger,
            terms=scene.terms,
            log=scene.sandbox.log,
            remote=scene.sandbox.appointments,
            said=scene.fleet.said,
            secrets=(SECRET, TOKEN),
        )
    finally:
        await conn.close()
    violations = [*(Violation(7, what) for what in scene.fleet.ended_badly), *audit(evidence)]
    return violations, casefile(evidence, violations)
