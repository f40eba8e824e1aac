"""The one table, and below it what has to be known to read it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.results import Results, spread
from tests.bench.roster import Contestant
from tests.bench.table import cell, table

_HEADING = (
    "", "requests/s", "spread", "to bare", "worker CPU", "Postgres CPU", "peak MB",
    "idle p50 ms", "to bare", "idle p99 ms", "to bare",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and how it was measured."""

    appointments: int
    changes: int
    rounds: int
    postgres: str
    load: float
    """The machine's load average before it began."""


def report(contestants: Sequence[Contestant], results: Results, setting: Setting) -> str:
    """All of it, for people."""
    measured = [c for c in contestants if results.drains[c.name] or results.idle_s[c.name]]
    lines = [table([_HEADING, *(_row(contestant, results) for contestant in measured)]), ""]
    if setting.appointments:
        lines += _of_drains(measured, results, setting)
    if setting.changes:
        lines.append(
            f"idle: from commit to the request's arrival, {setting.rounds} x {setting.changes} changes, one at a time"
        )
    lines.append(f"Postgres: {setting.postgres}")
    lines.append(f"load of the machine before it began: {setting.load:.2f}")
    lines += [f"{c.title}: {c.how} ({c.versions})" for c in measured]
    lines += [f"FAILED: {name}: {why}" for name, why in results.failed.items()]
    return "\n".join(lines)


def _row(contestant: Contestant, results: Results) -> list[str]:
    name = contestant.name
    drained = results.drains[name]

    def median(figure: str, form: str) -> str:
        return f"{statistics.median(results.all(name, figure)):{form}}" if drained else ""

    return [
        contestant.title,
        median("requests_per_s", ",.0f"),
        spread(results.all(name, "requests_per_s")) if drained else "",
        cell(results.share_of_bare(name), ".2f"),
        median("worker_cpu_s", ".3f"),
        median("postgres_cpu_s", ".3f") if contestant.done else "",
        median("peak_mb", ".0f"),
        *(
            text
            for share in (0.5, 0.99)
            for text in (cell(results.idle_ms(name, share), ".2f"), cell(results.times_bare(name, share), ".2f"))
        ),
    ]


def _of_drains(measured: Sequence[Contestant], results: Results, setting: Setting) -> list[str]:
    names = [c.name for c in measured if results.drains[c.name]]
    busiest = max(names, key=lambda name: statistics.median(results.all(name, "server_busy")))
    busy = statistics.median(results.all(busiest, "server_busy"))
    others = [cores for name in names for cores in results.all(name, "others_cores")]
    lines = [
        f"drain: {setting.appointments:,} appointments, one change each, {setting.rounds} rounds; medians, requests a "
        "second from the first arrival to the last answer, CPU seconds for 1,000 requests",
        f"server: answers {statistics.median(results.capacity):,.0f} requests a second ({spread(results.capacity)}) to "
        f"a client that costs next to nothing; at its busiest ({busiest}) it took {busy:.0%} of a core",
        f"other work on the machine: {statistics.median(others):.2f} cores ({spread(others, '.2f')}) during the drains",
    ]
    lines += [
        f"SENT TWICE: {name}: {twice:.0f} requests too many"
        for name in names
        if (twice := sum(results.all(name, "twice")))
    ]
    return lines
