"""The server: its version, what stands between, what a crash could lose, its connections and its clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg

from worker.check.finding import Finding, failed, ok, skipped, warning
from worker.config import Settings
from worker.database import APPLICATION_NAME
from worker.runner import POOL_SIZE
from worker.sqlfiles import query
from worker.status import ALIVE_S

OLDEST_SERVER = 150_000
# See sql/sharding/partitioned.sql, which refuses on these; a server may have become one after that.
CRASHES_BY_CHOOSING_PARTITIONS = range(180_000, 180_007)
CLOCK_TOLERANCE_S = 2.0
CLOCK_SAMPLES = 3


async def database(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """Who we are where, and that the server is new enough. That it is no standby, the connection has seen to."""
    return [version_finding(await conn.fetchrow(query("check_server")))]


def version_finding(row: Mapping[str, Any]) -> Finding:
    """What is to be said of one row of check_server."""
    place = f"{row['host']}, port {row['port']}" if row["host"] else "a local socket"
    said = f"PostgreSQL {row['version']} at {place}, database {row['database']}, as {row['login']}"
    if row["version_number"] < OLDEST_SERVER:
        return failed("database", said, "upgrade the server to PostgreSQL 15 or newer")
    if row["chooses_partitions"] and row["version_number"] in CRASHES_BY_CHOOSING_PARTITIONS:
        return failed(
            "database",
            f"{said}: it can crash, the whole server, by a claim in partitioned tables",
            f'ALTER DATABASE "{row["database"]}" SET enable_partition_pruning = off, and restart the workers; or '
            "update the server to a version after 18.6",
        )
    return ok("database", said)


async def pooler(conn: asyncpg.Connection, settings: Settings) -> list[Finding]:
    """That the setting fits what stands between: a pooler makes up the number of the process that it tells us."""
    between = (await conn.fetchrow(query("check_server")))["pid"] != conn.get_server_pid()
    if between == settings.database.pgbouncer:
        return [
            ok(
                "pooler",
                "PgBouncer, as database.pgbouncer says" if between else "none: the server is spoken to directly",
            )
        ]
    if between:
        return [
            failed(
                "pooler",
                "something like PgBouncer stands between, and database.pgbouncer is false: statements will fail",
                "set database.pgbouncer = true, or give the server's own address in database.dsn",
            )
        ]
    return [
        warning(
            "pooler",
            "database.pgbouncer is true, but nothing stands between: changes are found by polling only, "
            f"every {settings.worker.poll_s:g} s",
            "set database.pgbouncer = false",
        )
    ]


async def durability(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """That what was committed is there after a crash: which requests were made, and which slots are taken."""
    row = await conn.fetchrow(query("check_durability"))
    off = [name for name in ("fsync", "full_page_writes") if not row[name]]
    if row["synchronous_commit"] == "off":
        off.append("synchronous_commit")
    if off:
        return [
            warning(
                "durability",
                f"{', '.join(off)} is off: a crash of the server may forget changes, and which requests were made",
                "; ".join(f"ALTER SYSTEM SET {name} = on" for name in off) + "; then SELECT pg_reload_conf()",
            )
        ]
    return [ok("durability", "fsync, full_page_writes and synchronous_commit are on")]


async def connections(conn: asyncpg.Connection, settings: Settings) -> list[Finding]:
    """That the workers' connections fit, and one more process's beside them."""
    if settings.database.pgbouncer:
        return [skipped("connections", "PgBouncer gives them out; see its pool_size and max_client_conn")]
    alive = len(await conn.fetch(query("workers"), ALIVE_S))
    return [connections_finding(await conn.fetchrow(query("check_connections"), APPLICATION_NAME), alive)]


def connections_finding(row: Mapping[str, Any], alive: int) -> Finding:
    """What is to be said of one row of check_connections when so many workers are alive."""
    each = POOL_SIZE + 1  # LISTEN has one of its own
    room, what, mend = min(_room(row))
    running = "1 is running" if alive == 1 else f"{alive} are running"
    said = f"a process takes up to {each}, {running}, and {what} leaves room for {max(room, 0)}"
    if room < each * max(alive, 1):
        return failed("connections", said, mend)
    if room < each * (alive + 1):
        return warning("connections", f"{said}: one more does not fit", mend)
    return ok("connections", said)


def _room(row: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    """For each limit: how many it leaves to us, what it is called, and how it is raised."""
    yield row["server_limit"] - row["in_server"], "max_connections", "raise max_connections, which takes a restart"
    if row["database_limit"] is not None:
        yield (
            row["database_limit"] - row["in_database"],
            f"the limit of database {row['database']}",
            f'ALTER DATABASE "{row["database"]}" CONNECTION LIMIT …',
        )
    if row["login_limit"] is not None:
        yield (
            row["login_limit"] - row["of_login"],
            f"the limit of role {row['login']}",
            f'ALTER ROLE "{row["login"]}" CONNECTION LIMIT …',
        )


async def clock(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """How far this host's clock is from the database's, which is the only one that leases and slots are judged by."""
    samples: list[tuple[float, float]] = []
    for _ in range(CLOCK_SAMPLES):
        before = time.time()
        there = await conn.fetchval(query("check_clock"))
        after = time.time()
        samples.append((after - before, (before + after) / 2 - there))
    round_trip_s, ahead_s = min(samples)
    return [clock_finding("the database", ahead_s, round_trip_s / 2)]


def clock_finding(whose: str, ahead_s: float, unsure_s: float) -> Finding:
    """What is to be said when this host is `ahead_s` before another clock, give or take `unsure_s`."""
    said = f"this host is {abs(ahead_s):.1f} s {'ahead of' if ahead_s >= 0 else 'behind'} {whose}"
    if abs(ahead_s) > CLOCK_TOLERANCE_S + unsure_s:
        return warning(
            "clock",
            f"{said}: nothing depends on it but the times in this host's log",
            "let both hosts ask a time server (chrony, systemd-timesyncd)",
        )
    return ok("clock", said)
