"""The benchmark's rounds: in each, every contestant has its turn, in another order each time, so that noise hits all
alike."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Mapping, Sequence

from tests.bench import databases
from tests.bench.drain import Drain, drain
from tests.bench.latency import idle
from tests.bench.processes import Failed, ended, finish, start
from tests.bench.results import Results
from tests.bench.roster import BARE, Contestant
from tests.bench.serverprocess import ServerProcess, server
from tests.bench.work import Given


async def measure(
    contestants: Sequence[Contestant], *, dsn: str, appointments: int, changes: int, rounds: int
) -> Results:
    """All rounds of drains, and then all rounds of idle services; none of what is zero."""
    results = Results()
    async with server() as api:
        for contestant in contestants:
            say(f"{contestant.title}: tables, and a first start")
            try:
                await databases.make_template(dsn, contestant, api)
            except Failed as error:
                _fails(results, contestant, error)
        if appointments:
            await _drains(results, contestants, dsn=dsn, api=api, appointments=appointments, rounds=rounds)
        if changes:
            left = {c.name: c for c in contestants if c.name not in results.failed}
            await _idles(results, left, dsn=dsn, api=api, changes=changes, rounds=rounds)
    return results


async def _drains(
    results: Results, contestants: Sequence[Contestant], *, dsn: str, api: ServerProcess, appointments: int, rounds: int
) -> None:
    postmaster_pid = await databases.postmaster(dsn)
    for number in range(rounds):
        results.capacity.append(await _capacity(api, appointments))
        for contestant in _turned(contestants, number):
            if contestant.name in results.failed:
                continue
            try:
                done = await drain(
                    contestant, dsn=dsn, postmaster_pid=postmaster_pid, server=api, appointments=appointments
                )
            except Failed as error:
                _fails(results, contestant, error)
            else:
                results.drains[contestant.name][number] = done
                say(f"round {number + 1} of {rounds}: {_line(contestant, done)}")


async def _idles(
    results: Results, contestants: Mapping[str, Contestant], *, dsn: str, api: ServerProcess, changes: int, rounds: int
) -> None:
    say("idle services")
    async with idle(contestants, dsn=dsn, server=api, failed=results.failed) as services:
        for number in range(rounds):
            for contestant in _turned([contestants[name] for name in services.names], number):
                if contestant.name in results.failed:
                    continue
                try:
                    seconds = await services.seconds(contestant, changes)
                except Failed as error:
                    _fails(results, contestant, error)
                else:
                    results.idle_s[contestant.name] += seconds
                    p50_ms = statistics.median(seconds) * 1000
                    say(f"round {number + 1} of {rounds}: {contestant.title}: commit to request, p50 {p50_ms:.2f} ms")


async def _capacity(api: ServerProcess, requests: int) -> float:
    """Requests a second that the server answers to a client that is nearly free."""
    numbers = range(requests)
    await api.count()
    api.expect(numbers)
    process = await start(
        "tests.bench.capacity", variables=Given("", api.base_url, BARE.concurrency, numbers).variables()
    )
    async with ended(process), asyncio.timeout(120):
        first_at, last_at = (await api.told())["first"], (await api.told())["last"]
        api.answer()
        await finish(process)
    return float(requests / (last_at - first_at))


def _turned(contestants: Sequence[Contestant], by: int) -> list[Contestant]:
    """Each round begins with another one."""
    by %= max(1, len(contestants))
    return [*contestants[by:], *contestants[:by]]


def _line(contestant: Contestant, done: Drain) -> str:
    return f"{contestant.title}: {done.requests_per_s:,.0f} requests a second"


def _fails(results: Results, contestant: Contestant, error: Failed) -> None:
    results.failed[contestant.name] = str(error)
    say(f"{contestant.title}: {error}")


def say(text: str) -> None:
    """How far it is, beside the table."""
    print(text, file=sys.stderr, flush=True)
