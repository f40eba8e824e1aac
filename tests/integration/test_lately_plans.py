"""How many rows it takes to tell what the page reads again and again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import asyncpg

from tests.support.claims import registered
from tests.support.database import Database
from tests.support.plans import nodes, table_of
from worker.config import DatabaseSettings
from worker.database import connect_options
from worker.sqlfiles import query

PENDING, PARKED, OLD, LATE = 20_000, 2_000, 10_000, 500


async def busy(database: Database) -> None:
    """A busy account: many changes, some of them parked, and the requests of two days."""
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.outbox (appointment_id, changes)
        SELECT 'app_' || i, '{"note": null}' FROM generate_series(1, $1::int) AS i
        """,
        PENDING + PARKED,
    )
    await database.pool.execute(
        """
        UPDATE caspen_sync.outbox SET state = 'parked', last_error = 'reason ' || id % 20, finished_at = now()
        WHERE id > $1
        """,
        PENDING,
    )
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.attempt (account, appointment_id, change_ids, started_at, duration_ms, outcome, worker)
        SELECT 'default', 'app_' || i, ARRAY[i],
               now() - CASE WHEN i <= $1 THEN interval '1 day' ELSE interval '1 minute' END, 80, 'synced', 'w'
        FROM generate_series(1, $2::int) AS i
        """,
        OLD,
        OLD + LATE,
    )
    await database.pool.execute("VACUUM ANALYZE caspen_sync.outbox, caspen_sync.attempt")


AGAIN_AND_AGAIN: Mapping[str, tuple[list[Any], dict[str, float]]] = {
    "glance": ([], {"account": 1, "rate_slot": 1000}),
    "sent_lately": ([60], {"account": 1, "attempt": LATE}),
    "parked_reasons": ([20], {"account": 1, "outbox": PARKED}),
    "parked_of_reason": ([None, None, 0, 100], {"account": 1, "outbox": 100}),
}


async def test_what_the_page_reads_again_and_again(database: Database) -> None:
    """Beside a backlog and a long log, it reads by the account's index what it tells of, and nothing else: whether it
    was planned while all was empty, or anew."""
    await registered(database)
    conn = await asyncpg.connect(**(connect_options(DatabaseSettings()) | {"dsn": database.dsn}))
    explain = "EXPLAIN (ANALYZE, FORMAT JSON)"
    early = {name: await conn.prepare(f"{explain} {query(name)}") for name in AGAIN_AND_AGAIN}
    for name, prepared in early.items():
        await prepared.fetch(*AGAIN_AND_AGAIN[name][0])
    await busy(database)
    late = {name: await conn.prepare(f"{explain}  {query(name)}") for name in AGAIN_AND_AGAIN}
    for name, prepared in [*early.items(), *late.items()]:
        given, expected = AGAIN_AND_AGAIN[name]
        assert rows_read(json.loads(await prepared.fetchval(*given))[0]["Plan"]) == expected, name
    await conn.close()


def rows_read(plan: dict[str, Any]) -> dict[str, float]:
    """Of each table, by scans of an index that name the account."""
    rows: dict[str, float] = {}
    for node in nodes(plan):
        if "Scan" in node["Node Type"] and (table := table_of(node)):
            assert node["Node Type"] in ("Index Scan", "Index Only Scan"), node
            assert table == "account" or "account" in node["Index Cond"], node
            found = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            rows[table] = rows.get(table, 0) + found * node["Actual Loops"]
    return rows
