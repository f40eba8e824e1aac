"""What is measured: the engine as a process of its own, in step with an API that holds its answers back, and the
statements of the store beside a backlog. Each scenario has a server of its own, on which nothing else happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from tests.gate.baseline import Costs
from tests.gate.lockstep import HeldApi, Stepped, held_api, stepped, stepped_service
from tests.gate.store import IDLE_ACCOUNTS, store_alone
from tests.gate.wire import Traffic, Wire, wire_to
from tests.gate.written import Ground, Written, ground
from tests.support.claims import limits, registered

AT_ONCE = 64
BUDGET = 1100  # nobody waits for a slot
ACCOUNT = {"rate_window_s": 3600.0, "rate_guard_s": 0.05, "live_reserve": 0.1}
SETTINGS = {
    "API__TIMEOUT_S": "60",
    "ACCOUNTS__DEFAULT__RATE_LIMIT": str(BUDGET),
    "ACCOUNTS__DEFAULT__CONCURRENCY": str(AT_ONCE),
    "WORKER__POLL_S": "3600",
} | {f"ACCOUNTS__DEFAULT__{name.upper()}": str(value) for name, value in ACCOUNT.items()}

MANY = SETTINGS | {
    f"ACCOUNTS__{account.upper()}__{name}": value
    for account in IDLE_ACCOUNTS
    for name, value in (("TOKEN", "unused"), ("RATE_LIMIT", "60"))
}
# So seldom that a busy machine does not take two polls for one.
POLL_S = 1.0
POLLS = 3

TITLES = {
    "drain": "`run --once` over 1,024 appointments of one change each, 64 on the wire, answered 64 together.",
    "drain_folded": "`run --once` over 64 appointments of 16 changes each: 64 requests.",
    "drain_trickle": "`run --once` over 256 appointments of one change each, 64 on the wire, answered 8 by 8.",
    "drain_service": "The service over as many, answered 64 together; writing the changes is counted, too.",
    "run_of_none": "`run --once` with nothing to do.",
    "run_of_one": "`run --once` with one change: what it costs to start and to end.",
    "one_change": "One change written to an idle service: until it is on the wire, and from the answer on.",
    "idle": "A poll of a service that has nothing to do, of one account and of 50; one change in one of the 50.",
    "enqueue": "1,000 changes of 1,000 new appointments, written in one statement, beside the backlog.",
    "take_in": "They are taken in. The backlog: 20,000 due, 20,000 finished, 20,000 that back off, a hot one.",
    "claim": "256 of the appointments due are claimed.",
    "settle": "They are written back, accepted.",
    "claim_hot": "The hot appointment, which has 2,000 changes, is claimed: 1,000 of them at once.",
    "claim_arrival": "One change has arrived, and is taken in and claimed at once.",
    "idle_plans": "What a poll of 49 idle accounts reads.",
}


@contextlib.asynccontextmanager
async def stage(cluster: Path, *others: str) -> AsyncIterator[tuple[Ground, Wire, HeldApi]]:
    """A server with a proxy in front, a registered account and maybe others, and an API."""
    async with ground(cluster) as there, wire_to(there.port) as wire, held_api() as api:
        await registered(there.database, limits(BUDGET, **ACCOUNT), timeout_s=60)
        for account in others:
            await registered(there.database, limits(60), account=account, timeout_s=60)
        yield there, wire, api


async def write(there: Ground, appointments: int, changes: int = 1, *, name: str = "app") -> None:
    """What an application does, all in one transaction; every body is as long."""
    await there.database.pool.execute(
        """
        INSERT INTO caspen_sync.outbox (appointment_id, changes)
        SELECT $3 || '_' || lpad(a::text, 5, '0'), jsonb_build_object('note', 'note ' || lpad(c::text, 5, '0'))
        FROM generate_series(1, $2::int) AS c, generate_series(1, $1::int) AS a
        """,
        appointments,
        changes,
        name,
    )


def costs(traffic: Traffic, written: Written, requests: int) -> dict[str, Mapping[str, float]]:
    """Of a drain: by request, and by statement."""
    each = {kind: _each(getattr(written, kind), requests) for kind in Written.__slots__}
    return {
        "per_request": {
            "statements": traffic.statements.total() / requests,
            "round_trips": traffic.round_trips / requests,
            **{kind: sum(values.values()) for kind, values in each.items()},
        },
        "statements": traffic.statements,
        **{f"{kind}_per_request": values for kind, values in each.items()},
    }


def _each(counted: Counter[str], requests: int) -> dict[str, float]:
    """Without what is only the start's and the end's."""
    return {name: count / requests for name, count in counted.items() if count >= requests / 10}


def wire_costs(traffic: Traffic, name: str = "statements") -> dict[str, Mapping[str, float]]:
    return {name: {**traffic.statements, "round trips": traffic.round_trips}}


async def _drained(
    cluster: Path, appointments: int, changes: int = 1, at_once: int | None = None
) -> dict[str, Mapping[str, float]]:
    async with stage(cluster) as (there, wire, api):
        await write(there, appointments, changes)
        before = await there.log.now()
        async with stepped("--once", dsn=there.dsn(wire.port), wire=wire, api=api, settings=SETTINGS) as worker:
            await worker.work_off(appointments, at_once=at_once)
            await worker.end()
        assert await there.database.states() == {"synced": appointments * changes}
        assert api.received == appointments
        return costs(wire.traffic, await there.log.since(before), appointments)


async def drain(cluster: Path) -> dict[str, Costs]:
    return {"drain": await _drained(cluster, 1024)}


async def drain_folded(cluster: Path) -> dict[str, Costs]:
    return {"drain_folded": await _drained(cluster, 64, 16)}


async def drain_trickle(cluster: Path) -> dict[str, Costs]:
    found = await _drained(cluster, 256, at_once=8)
    return {"drain_trickle": {kind: found[kind] for kind in ("per_request", "statements")}}


async def service(cluster: Path) -> dict[str, Costs]:
    """One change, and then very many."""
    async with stage(cluster) as (there, wire, api):
        async with stepped_service(dsn=there.dsn(wire.port), wire=wire, api=api, settings=SETTINGS) as worker:
            for name, appointments in (("first", AT_ONCE), ("second", 1)):  # its connections are made
                async with worker.hearing():
                    await write(there, appointments, name=name)
                await worker.work_off(appointments)
            before = wire.traffic
            async with worker.hearing():
                await write(there, 1, name="one")
            await worker.quiet()
            assert api.held == 1
            sent = wire.traffic
            worker.answer()
            await worker.quiet()
            one_change = wire_costs(sent - before, "to_the_wire") | wire_costs(wire.traffic - sent, "from_the_answer")
            before, log = wire.traffic, await there.log.now()
            async with worker.hearing():
                await write(there, 1024, name="many")
            await worker.work_off(1024)
            many = costs(wire.traffic - before, await there.log.since(log), 1024)
        assert await there.database.states() == {"synced": AT_ONCE + 1 + 1 + 1024}
        return {"one_change": one_change, "drain_service": {kind: many[kind] for kind in ("per_request", "statements")}}


async def short_runs(cluster: Path) -> dict[str, Costs]:
    found: dict[str, Costs] = {}
    async with stage(cluster) as (there, wire, api):
        for name, appointments in (("run_of_none", 0), ("run_of_one", 1)):
            before = wire.traffic
            await write(there, appointments)
            async with stepped("--once", dsn=there.dsn(wire.port), wire=wire, api=api, settings=SETTINGS) as worker:
                await worker.work_off(appointments)
                await worker.end()
            found[name] = wire_costs(wire.traffic - before)
    return found


async def idle(cluster: Path) -> dict[str, Costs]:
    """A poll is what goes on from one silence to the next; of several the least, lest two were taken for one."""
    found: dict[str, Mapping[str, float]] = {}

    async def polls(name: str, settings: Mapping[str, str], *others: str) -> None:
        settings = {**settings, "WORKER__POLL_S": str(POLL_S)}
        async with stage(cluster, *others) as (there, wire, api):
            dsn = there.dsn(wire.port)
            async with stepped_service(dsn=dsn, wire=wire, api=api, settings=settings, clock_runs=True) as worker:
                each = [await _poll(worker, wire) for _ in range(POLLS)]
            found.update(wire_costs(min(each, key=lambda poll: poll.statements.total()), name))

    async def one_change() -> None:
        async with stage(cluster, *IDLE_ACCOUNTS) as (there, wire, api):
            async with stepped_service(dsn=there.dsn(wire.port), wire=wire, api=api, settings=MANY) as worker:
                for account in IDLE_ACCOUNTS[:2]:  # the first time connections are made
                    before = wire.traffic
                    async with worker.hearing():
                        await there.database.write("app", {"note": "one"}, account=account)
                    await worker.work_off(1)
            found.update(wire_costs(wire.traffic - before, "one_change_in_one_of_50"))

    async with asyncio.TaskGroup() as all_three:
        all_three.create_task(polls("poll_of_1_account", SETTINGS))
        all_three.create_task(polls("poll_of_50", MANY, *IDLE_ACCOUNTS))
        all_three.create_task(one_change())
    return {"idle": {name: found[name] for name in sorted(found)}}


async def _poll(worker: Stepped, wire: Wire) -> Traffic:
    before = wire.traffic
    while wire.traffic.round_trips == before.round_trips:
        assert await worker.quiet()
    return wire.traffic - before


SCENARIOS: Mapping[str, Callable[[Path], Coroutine[Any, Any, Mapping[str, Costs]]]] = {
    scenario.__name__: scenario
    for scenario in (drain, drain_folded, drain_trickle, service, short_runs, idle, store_alone)
}
