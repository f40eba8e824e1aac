"""The plans of the statements that run for every claim: index lookups by account, bounded by the batch.

A worker's connection plans each statement once, maybe while its tables are empty, so the plan that is right for a
million rows has to be the only one there is.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from tests.support.database import Database
from worker.config import AccountSettings, DatabaseSettings
from worker.database import connect_options
from worker.sqlfiles import query
from worker.store import Store

ACCOUNTS = ["default"]
NOW = datetime.now(UTC)
NOTHING: list[Any] = []
SETTLE = [
    *(["default"], ["app_1"], [uuid.UUID(int=0)], [1], [None], [0], [None], [False]),
    *([1], [1], ["synced"], [1], [None], [None]),
    *([1], ['{"id": "app_1"}'], ['{"id": "app_1"}'], [1], ['{"note": 1}']),
    *(["default"], ["app_1"], ["{1}"], [0.1], [10.0], [200], ["synced"], [None], "w"),
    *(["default"], [1], [NOW], [60.0], [False]),
]
STATEMENTS: dict[str, list[Any]] = {
    "take_in": [ACCOUNTS, 2000],
    "claim": [ACCOUNTS, [8], "w", 30.0, 75.0, 1000, 65_536],
    "take_slot": ["default", "live", 30.0],
    "settle": SETTLE,
    "outlook": [ACCOUNTS],
    "left_over": [ACCOUNTS, 75.0],
    "idle": [ACCOUNTS],
    "hold_back": [ACCOUNTS, [10], [0.1]],
    "run_up_over": [ACCOUNTS, ["down"]],
    "given_up": ["default"],
    "run_up": [ACCOUNTS, ["rejected"], ["app_1"], ["404"], ["{1}"], [1]],
    "run_up_length": [ACCOUNTS],
    "pause": [ACCOUNTS, ["down"], ["503"], [10.0], [0.1], [300.0], [0.1], [None]],
    "reinstate": ["default", "rejected"],
    "prune_changes": ["default", 0, 3600.0, 1000],
    "prune_attempts": ["default", NOW, 3600.0, 1000],
}
TABLES = {
    "outbox",
    "arrival",
    "queue",
    "rate_slot",
    "account",
    "appointment",
    "attempt",
    "run_up",
    "rejection",
    "intervention",
}


@pytest.fixture
async def worker_connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection as a worker opens it."""
    conn = await asyncpg.connect(**(connect_options(DatabaseSettings()) | {"dsn": database.dsn}))
    yield conn
    await conn.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes that read one of our tables; writing nodes name theirs too, but read nothing."""
    return [node for node in nodes(plan) if node.get("Relation Name") in TABLES and "Scan" in node["Node Type"]]


@pytest.mark.parametrize("name", STATEMENTS)
async def test_every_table_is_read_by_account_through_an_index(
    worker_connection: asyncpg.Connection, name: str
) -> None:
    """Planned on empty tables, each scan is an index scan whose condition names the account."""
    prepared = await worker_connection.prepare(query(name))
    for scan in scans((await prepared.explain(*STATEMENTS[name]))[0]["Plan"]):
        assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), scan
        assert "account" in scan["Index Cond"], scan


async def test_a_claim_reads_no_more_than_its_batch(database: Database, worker_connection: asyncpg.Connection) -> None:
    """Beside finished rows, waiting appointments and one with thousands of changes, a claim reads what it takes."""
    store = Store(database.workers, worker="w")
    await store.register({"default": AccountSettings()})
    written = {"'finished_' || i": 5_000, "'waiting_' || i": 3_000, "'hot'": 1_500, "'due_' || i": 100}
    for appointment, count in written.items():
        await database.pool.execute(
            f"""
            INSERT INTO caspen_sync.outbox (appointment_id, changes)
            SELECT {appointment}, '{{"note": null}}' FROM generate_series(1, {count}) AS i
            """
        )
    while await store.take_in(ACCOUNTS):
        pass
    await database.pool.execute(
        "UPDATE caspen_sync.outbox SET state = 'synced', finished_at = now() WHERE appointment_id LIKE 'finished%'"
    )
    await database.pool.execute(
        """
        UPDATE caspen_sync.queue SET due_at = CASE WHEN appointment_id LIKE 'finished%' THEN 'infinity'::timestamptz
                                                   WHEN appointment_id LIKE 'waiting%' THEN now() + interval '1 hour'
                                                   ELSE due_at END
        """
    )
    await database.pool.execute("VACUUM ANALYZE caspen_sync.outbox")
    await database.pool.execute("VACUUM ANALYZE caspen_sync.queue")
    prepared = await worker_connection.prepare(query("claim"))
    async with worker_connection.transaction():
        plan = (await prepared.explain(*STATEMENTS["claim"], analyze=True))[0]["Plan"]
    read = {scan["Relation Name"]: 0.0 for scan in scans(plan)}
    for scan in scans(plan):
        read[scan["Relation Name"]] += scan["Actual Rows"] * scan["Actual Loops"]
    assert plan["Actual Rows"] == 8
    assert read["queue"] <= 1 + 8 + 8 + 8, read  # something due, the candidates, their snapshot, the update
    assert read["outbox"] <= 1000 + 8, read  # the hot one is capped
    assert read["rate_slot"] <= 2 * 60, read


@pytest.mark.parametrize(("name", "args"), [("status", []), ("strangers", [10_000])])
async def test_how_it_is_is_read_through_indexes(
    worker_connection: asyncpg.Connection, name: str, args: list[Any]
) -> None:
    """Planned on empty tables, nothing is scanned from end to end but the accounts themselves; the names of those that
    have arrivals are found one by one."""
    prepared = await worker_connection.prepare(query(name))
    for scan in scans((await prepared.explain(*args, analyze=True))[0]["Plan"]):  # else it would not show every part
        assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), scan
        if scan["Relation Name"] != "account" and scan["Alias"] != "first_name":
            assert "account" in scan.get("Index Cond", ""), scan


async def test_how_it_is_costs_what_is_pending(database: Database, worker_connection: asyncpg.Connection) -> None:
    """Beside finished rows, pending changes are found by their own index, which does not have the others."""
    await Store(database.pool, worker="w").register({"default": AccountSettings()})
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.outbox (appointment_id, changes)
        SELECT 'app_' || i, '{"note": null}' FROM generate_series(1, 5000) AS i
        """
    )
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'synced', finished_at = now() WHERE id > 100")
    await database.pool.execute("VACUUM ANALYZE caspen_sync.outbox")
    prepared = await worker_connection.prepare(query("status"))
    plan = (await prepared.explain(analyze=True))[0]["Plan"]
    (pending,) = [scan for scan in scans(plan) if scan.get("Index Name") in ("outbox_pending", "outbox_pkey")]
    assert (pending["Index Name"], pending["Actual Rows"]) == ("outbox_pending", 100)
