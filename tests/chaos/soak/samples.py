"""What a soak looks at: its processes in /proc and at /metrics, and the database by its catalog."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil

from tests.chaos.soak.flatness import Flat, Point, Rule, Verdict, Within, judge
from tests.chaos.soak.plan import SERVICES, Plan
from tests.support.web import Metrics, get

MB = 1e6
# What has cycles is collected after 50,000 new objects, see worker.loop: some 5 MB, every few minutes.
MEMORY = Flat(share=0.05, least=6.0)
THREADS = Flat(share=0.0, least=2.0)
# Requests on the wire, and people at the page, are files too.
FILES = Flat(share=0.0, least=4.0)
# A pool opens them when it has use for them, and closes those that it had none for in five minutes.
CONNECTIONS = Flat(share=0.0, least=3.0)
ALL_CONNECTIONS = Flat(share=0.0, least=4.0)
# Sessions of people's commands come and go, and those that stay get to know more tables and statements.
SESSIONS = Flat(share=0.25, least=10.0)
SERIES = Flat(share=0.1, least=10.0)
# Tables are as large as they ever had to be: the bigger of their times between two vacuums makes them so.
RELATION = Flat(share=0.25, least=0.25)
DEAD = Flat(share=0.5, least=2000.0)
ROWS = Flat(share=0.25, least=200.0)
WAITING = Flat(share=0.5, least=40.0)
AGE_S = Flat(share=0.5, least=5.0)


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that is to stay flat."""

    what: str
    unit: str
    rule: Rule


Sample = Mapping[Quantity, float]


@dataclass(slots=True)
class Samples:
    """All of a run's."""

    series: defaultdict[Quantity, list[Point]] = field(default_factory=lambda: defaultdict(list))

    def add(self, at_s: float, sample: Sample) -> None:
        for quantity, value in sample.items():
            self.series[quantity].append((at_s, value))

    def verdicts(self) -> dict[Quantity, Verdict]:
        """Raises ValueError when they are too few."""
        return {quantity: judge(points, quantity.rule) for quantity, points in self.series.items()}


@dataclass(frozen=True, slots=True)
class Service:
    """A running `caspen-sync run`."""

    name: str
    pid: int
    address: str

    async def sample(self) -> tuple[Sample, Metrics]:
        """What its process holds, and what it says at /metrics."""
        process = psutil.Process(self.pid)
        page = await get(f"http://{self.address}/metrics", limit_s=30)
        assert page.status == 200, f"{self.name}: /metrics answers {page.status}"
        metrics = Metrics(page.text)
        held = {
            Quantity(f"{self.name}: memory", "MB", MEMORY): process.memory_info().rss / MB,
            Quantity(f"{self.name}: threads", "", THREADS): process.num_threads(),
            Quantity(f"{self.name}: open files", "", FILES): process.num_fds(),
            Quantity(f"{self.name}: connections in its pool", "", CONNECTIONS): sum(
                metrics.values("caspen_sync_database_connections").values()
            ),
            Quantity(f"{self.name}: series at /metrics", "", SERIES): sum(
                not line.startswith("#") for line in page.text.splitlines()
            ),
        }
        return held, metrics


_RELATIONS = """
    SELECT CASE c.relkind WHEN 'i' THEN 'index ' ELSE 'table ' END || c.relname AS what,
           pg_relation_size(c.oid) AS bytes
    FROM pg_class c WHERE c.relnamespace = 'caspen_sync'::regnamespace AND c.relkind IN ('r', 'i')
    UNION ALL
    SELECT 'TOAST of ' || c.relname, pg_total_relation_size(c.reltoastrelid)
    FROM pg_class c WHERE c.relnamespace = 'caspen_sync'::regnamespace AND c.relkind = 'r' AND c.reltoastrelid <> 0
    ORDER BY what
"""
_DEAD = "SELECT relname, n_dead_tup FROM pg_stat_user_tables WHERE schemaname = 'caspen_sync' ORDER BY relname"
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'caspen-sync'"
_AGE = "SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM caspen_sync.outbox WHERE state = 'pending'"


@dataclass(frozen=True, slots=True)
class Database:
    """The server and our schema in it."""

    conn: asyncpg.Connection
    postmaster: int
    plan: Plan

    async def sample(self) -> Sample:
        found = {
            Quantity("Postgres: memory of its processes but what they share", "MB", SESSIONS): self._private_mb(),
            Quantity("sessions of caspen-sync", "", ALL_CONNECTIONS): await self.conn.fetchval(_SESSIONS),
            Quantity("age of the oldest pending change", "s", AGE_S): float(await self.conn.fetchval(_AGE)),
        }
        for table, rule in self._rows().items():
            rows = await self.conn.fetchval(f"SELECT count(*) FROM caspen_sync.{table}")
            found[Quantity(f"rows of {table}", "", rule)] = rows
        found |= {
            Quantity(f"dead rows of {row['relname']}", "", DEAD): row["n_dead_tup"]
            for row in await self.conn.fetch(_DEAD)
        }
        relations = {row["what"]: row["bytes"] / MB for row in await self.conn.fetch(_RELATIONS)}
        found |= {Quantity(what, "MB", RELATION): size for what, size in relations.items()}
        found[Quantity("all tables and indexes", "MB", RELATION)] = sum(relations.values())
        return found

    def _rows(self) -> Mapping[str, Rule]:
        """What the design bounds, and what retention does."""
        bounded = Within(0, self.plan.appointments)
        return {
            "rate_slot": Within(self.plan.limit, self.plan.limit),
            # Besides the services, one errand at a time may work, too.
            "worker": Within(SERVICES, SERVICES + 1),
            "queue": bounded,
            "appointment": bounded,
            "appointment_lock": bounded,
            "run_up": Within(0, 20),
            "arrival": WAITING,
            "outbox": ROWS,
            "attempt": ROWS,
            "backfill_line": ROWS,
            "rejection": ROWS,
        }

    def _private_mb(self) -> float:
        """Sessions come and go: one that has just gone counts for nothing."""
        parent = psutil.Process(self.postmaster)
        return sum(_private_kb(process.pid) for process in [parent, *parent.children()]) * 1024 / MB


def _private_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


# -- the table ---------------------------------------------------------------------------------------------------------

# Smaller ones are told of in one line.
_SHOWN_MB = 0.1
_SHOWN_DEAD = 1000.0


def table(verdicts: Mapping[Quantity, Verdict]) -> str:
    """Markdown, and a line for whatever broke its rule."""
    shown = {one: how for one, how in verdicts.items() if how.broken or not _is_small(one, how)}
    lines = ["| | second quarter | last quarter | most | may | |", "| --- | --- | --- | --- | --- | --- |"]
    for one, how in shown.items():
        unit = f", {one.unit}" if one.unit else ""
        numbers = " | ".join(_said(value, one.unit) for value in (how.level, how.last, how.most))
        lines.append(f"| {one.what}{unit} | {numbers} | {how.may} | {_kept(one, how)} |")
    left = len(verdicts) - len(shown)
    lines.append(f"\nBesides, {left} that are small all the time: tables, indexes and dead rows.")
    lines += [f"GREW: {one.what}: {how.broken}" for one, how in shown.items() if how.broken]
    return "\n".join(lines)


def _is_small(one: Quantity, how: Verdict) -> bool:
    limit = {RELATION: _SHOWN_MB, DEAD: _SHOWN_DEAD}.get(one.rule, -1.0)
    return how.most < limit


def _kept(one: Quantity, how: Verdict) -> str:
    if how.broken:
        return "**no**"
    return "flat" if isinstance(one.rule, Flat) else "holds"


def _said(value: float, unit: str) -> str:
    return f"{value:,.2f}" if unit == "MB" else f"{value:,.1f}" if unit == "s" else f"{value:,.0f}"
