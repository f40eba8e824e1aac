"""The plans of the statements that run for every claim: index lookups by account, bounded by the batch.

A worker's connection plans each statement once, maybe while its tables are empty, or thought to be, so the plan that is
right for a million rows has to be the only one there is.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.integration.test_backfill_dry_plans import STATEMENTS as DRY_RUN
from tests.support.database import Database
from tests.support.loading import NAME, accepted
from tests.support.plans import found_empty, nodes, table_of
from tests.support.sharding import PARTITIONED
from worker.config import AccountSettings, DatabaseSettings
from worker.database import connect_options
from worker.sqlfiles import query
from worker.store import Store

ACCOUNTS = ["default"]
NOW = datetime.now(UTC)
NOTHING: list[Any] = []
SETTLE = [
    *(["default"], ["app_1"], [uuid.UUID(int=0)], [1], [None], [0], [None], [False], [None]),
    *([1], [1], ["synced"], [1], [None], [None]),
    *([1], ['{"id": "app_1"}'], ['{"id": "app_1"}'], [1], ['{"note": 1}']),
    *(["default"], ["app_1"], ["{1}"], [0.1], [10.0], [200], ["synced"], [None], "w"),
    *(["default"], [1], [NOW], [60.0], [False]),
]
STATEMENTS: dict[str, list[Any]] = {
    "take_in": [ACCOUNTS, 2000],
    "claim": [ACCOUNTS, [8], "w", 30.0, 75.0, 1000, 65_536, 32_768],
    "claim_arrival": ["default", "w", 30.0, 75.0, 1000, 65_536],
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
    "backfill_requests": [ACCOUNTS],
    "backfill_pace": [ACCOUNTS, [300.0], "may.csv", NOW, 75.0],
    "prune_changes": ["default", 0, 3600.0, 1000],
    "prune_attempts": ["default", NOW, 3600.0, 1000],
    "backfill_load": ["default", "f", uuid.UUID(int=0), 1000],
    "backfill_leave_out": ["default", "f", [1], [1]],
    "backfill_discard": ["default", "f", "", 0, 250],
    "backfill_drop_lines": ["default", "f", uuid.UUID(int=0), 0, 1000],
    "forget_backfills": ["default", 3600.0],
    "prune_backfill": ["default", "f", 250],
    "lock_appointments": ["default", [1]],
    "bring_back": ["default", [1], "ann@desk", None, None],
    "discard": ["default", [1], "ann@desk", None],
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
    "backfill",
    "backfill_line",
    "backfill_left_out",
    "pruned",
}


# Many empty partitions look larger than an empty table, and run_up, which is short, is rather joined as a whole then.
PARTITIONED_OTHERWISE = {"run_up_length", "given_up", "bring_back", "discard"}


@pytest.fixture
async def worker_connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection as a worker opens it."""
    conn = await asyncpg.connect(**(connect_options(DatabaseSettings()) | {"dsn": database.dsn}))
    yield conn
    await conn.close()


def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes that read one of our tables; writing nodes name theirs too, but read nothing."""
    read = [node | {"Relation Name": table_of(node)} for node in nodes(plan) if "Scan" in node["Node Type"]]
    return [node for node in read if node["Relation Name"] in TABLES]


@pytest.mark.parametrize("name", sorted(set(STATEMENTS) - PARTITIONED_OTHERWISE) if PARTITIONED else STATEMENTS)
async def test_every_table_is_read_by_account_through_an_index(
    worker_connection: asyncpg.Connection, name: str
) -> None:
    """Planned on empty tables, each scan is an index scan whose condition names the account."""
    prepared = await worker_connection.prepare(query(name))
    for scan in scans((await prepared.explain(*STATEMENTS[name]))[0]["Plan"]):
        assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), scan
        assert "account" in scan["Index Cond"], scan


# These are short, whatever comes: a vacuum that finds no row of them was right.
SHORT = {"account", "backfill", "run_up"}
# By what rows are compared all the same: one account's slots with the chosen one, and its backfills with its changes.
COMPARED = {"take_slot": ".slot", "forget_backfills": ".source"}


async def test_so_it_is_where_a_vacuum_found_nothing(database: Database, worker_connection: asyncpg.Connection) -> None:
    """The same where the planner expects a single row of each table; and no step compares the rows of a long table with
    those of another one by one, instead of looking them up."""
    await found_empty(database.pool)
    for name, arguments in (STATEMENTS | DRY_RUN).items():
        prepared = await worker_connection.prepare(query(name))
        plan = (await prepared.explain(*arguments))[0]["Plan"]
        for scan in scans(plan):
            assert scan["Relation Name"] in SHORT or "account" in scan.get("Index Cond", ""), (name, scan)
        for join in nodes(plan):
            by = join.get("Join Filter")
            meant = by and name in COMPARED and COMPARED[name] in by
            assert not by or meant or not of_long_tables(join), (name, join)


def of_long_tables(join: dict[str, Any]) -> list[dict[str, Any]]:
    """The scans whose rows this node compares with those of another step, but for short tables."""
    return [scan for scan in scans(join) if scan in join["Plans"] and scan["Relation Name"] not in SHORT]


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
    assert read["queue"] <= 4 * 8, read  # how many are due, the candidates, their snapshot, the update
    assert read["outbox"] <= 1000 + 8, read  # the hot one is capped
    assert read["rate_slot"] <= 2 * 60, read


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("status", []),
        ("strangers", [10_000]),
        ("glance", []),
        ("sent_lately", [60]),
        ("parked_reasons", [20]),
        ("parked_of_reason", [None, "x", 0, 500]),
        ("standing", ["app_1"]),
        ("change", ["default", 1]),
    ],
)
async def test_how_it_is_is_read_through_indexes(
    worker_connection: asyncpg.Connection, name: str, args: list[Any]
) -> None:
    """Planned on empty tables, nothing is scanned from end to end but the accounts themselves; the names of those that
    have arrivals are found one by one."""
    prepared = await worker_connection.prepare(query(name))
    for scan in scans((await prepared.explain(*args, analyze=True))[0]["Plan"]):  # else it would not show every part
        assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), scan
        if scan["Relation Name"] != "account" and not scan["Alias"].startswith("first_name"):
            assert "account" in scan.get("Index Cond", ""), scan


@pytest.mark.skipif(PARTITIONED, reason="the index of a partition has a name that Postgres chose")
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


GENTLE = ("backfill_load", "backfill_leave_out", "backfill_discard")
NOBODY = str(uuid.UUID(int=0))


@pytest.mark.parametrize("found", ["new", "empty"])
async def test_a_step_of_a_backfill_reads_no_more_than_its_lines(
    database: Database, worker_connection: asyncpg.Connection, found: str
) -> None:
    """In the middle of many lines, of many pending changes, of a full queue and of many synced appointments, with a
    newer change for each line: loading, leaving out, discarding and pruning read what they deal with, though they were
    planned while all of that was empty. So where a vacuum found it empty before."""
    if found == "empty":
        await found_empty(database.pool)
    conn = worker_connection
    for name, arguments in {
        "backfill_load": ("default", NAME, NOBODY, 1000),
        "backfill_leave_out": ("default", NAME, "{1}", "{1}"),
        "backfill_discard": ("default", NAME, "", 0, 250),
        "backfill_drop_lines": ("default", NAME, NOBODY, 0, 250),
        "prune_backfill": ("default", NAME, 250),
    }.items():
        await conn.execute(f"PREPARE {name} AS {query(name)}")
        await read_by(conn, name, *arguments)
    lines = [(f"app_{number:05}", {"note": "old"}) for number in range(6000)]
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.outbox (appointment_id, changes)
        SELECT 'app_' || lpad(i::text, 5, '0'), '{"note": null}' FROM generate_series(0, 5999) AS i
        """
    )
    while await Store(database.workers, worker="w").take_in(ACCOUNTS):
        pass
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.appointment (account, appointment_id, resource, synced_at, last_change_id, set_by)
        SELECT account, appointment_id, '{}', now(), id, jsonb_build_object('note', id) FROM caspen_sync.outbox
        """
    )
    staging, _ = await accepted(database, lines, as_of=NOW - timedelta(days=1))
    token = str(staging.token)
    for _ in range(3):
        loaded = await conn.fetchrow(query("backfill_load"), "default", NAME, staging.token, 1000)
    ids, nths = (str(set(loaded[name])) for name in ("ids", "nths"))
    read = await read_by(conn, "backfill_leave_out", "default", NAME, ids, nths)
    assert read["backfill_line"] <= 1000, read
    assert read["appointment"] <= 1000, read
    assert read["outbox"] <= 4 * 1000, read  # what has set the field, twice; its own; the update
    assert read["arrival"] <= 1000, read
    read = await read_by(conn, "backfill_load", "default", NAME, token, 1000)
    assert read["backfill_line"] <= 1000, read
    read = await read_by(conn, "backfill_discard", "default", NAME, "app_01000", 0, 250)
    assert read["outbox"] <= 5 * 250, read  # the walk; others of its appointments, for each of its changes; the update
    assert read["arrival"] + read["queue"] <= 3 * 250, read
    read = await read_by(conn, "backfill_drop_lines", "default", NAME, token, 0, 250)
    assert read["backfill_line"] <= 2 * 250, read
    await database.pool.execute("UPDATE caspen_sync.backfill SET forgotten_at = now()")
    read = await read_by(conn, "prune_backfill", "default", NAME, 250)
    assert 250 <= read["backfill_line"] <= 2 * 250, read


async def test_how_far_a_backfill_is_costs_what_was_sent_since(
    database: Database, worker_connection: asyncpg.Connection
) -> None:
    """Of many pending changes those are read that were sent, though it was planned while there were none."""
    arguments = ("{default}", "{300}", "may.csv", NOW.isoformat(), 75)
    await worker_connection.execute(f"PREPARE backfill_pace AS {query('backfill_pace')}")
    await read_by(worker_connection, "backfill_pace", *arguments)
    await Store(database.pool, worker="w").register({"default": AccountSettings()})
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.outbox (appointment_id, changes, lane, source)
        SELECT 'app_' || i, '{"note": null}', 'backfill', 'may.csv' FROM generate_series(1, 3000) AS i
        """
    )
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.attempt (account, appointment_id, change_ids, started_at, duration_ms, outcome, worker)
        SELECT account, appointment_id, ARRAY[id], now(), 1, 'synced', 'w' FROM caspen_sync.outbox LIMIT 100
        """
    )
    read = await read_by(worker_connection, "backfill_pace", *arguments)
    assert (read["attempt"], read["outbox"]) == (100, 100), read


async def read_by(conn: asyncpg.Connection, prepared: str, *arguments: str | int) -> dict[str, float]:
    """How many rows of each of our tables a prepared statement of a backfill looks at, filtered ones too. Nothing of it
    stays but its plan."""
    step = conn.transaction()
    await step.start()
    if prepared in GENTLE:
        await conn.execute(query("backfill_gently"), "0", "0")
    given = ", ".join(f"'{argument}'" for argument in arguments)
    plan = json.loads(await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {prepared} ({given})"))
    await step.rollback()
    return rows_read(plan[0]["Plan"])


def rows_read(plan: dict[str, Any]) -> dict[str, float]:
    read: dict[str, float] = dict.fromkeys(TABLES, 0.0)
    for scan in scans(plan):
        looked_at = scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)
        read[scan["Relation Name"]] += looked_at * scan["Actual Loops"]
    return read
