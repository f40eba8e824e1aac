"""The least-privilege roles: each can do its work, and nothing besides."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.claims import (
    TIMEOUT_S,
    accepted,
    claim,
    ids,
    limits,
    registered,
    settle,
    settlement,
    stopped,
    the_claim,
)
from tests.support.database import Database
from tests.support.loading import NAME, loaded, staged
from tests.support.roles import connected_with, user_with
from tests.support.setbacks import failing
from tests.support.waiting import eventually
from worker import clock
from worker.backfill.cancelling import cancel
from worker.backfill.loading import Loaded
from worker.backfill.registry import backfills
from worker.claims import BudgetTold, Verdict
from worker.config import RetrySettings
from worker.migrate import require_current_schema
from worker.retention import prune
from worker.sqlfiles import query
from worker.store import Store

INSERT = "INSERT INTO caspen_sync.outbox (appointment_id, changes) VALUES ('app_1', '{\"note\": null}')"
TABLES = (
    "outbox",
    "appointment_lock",
    "arrival",
    "queue",
    "account",
    "rate_slot",
    "appointment",
    "attempt",
    "worker",
    "run_up",
    "rejection",
    "intervention",
    "migration",
    "backfill",
    "backfill_line",
    "backfill_left_out",
    "pruned",
)


LISTS = ("backfill", "backfill_left_out", "pruned")


async def refused(conn: asyncpg.Connection, *statements: str) -> None:
    """Each statement fails for want of a right."""
    for statement in statements:
        try:
            await conn.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            continue
        pytest.fail(f"allowed: {statement}")


async def test_the_tables_are_the_ones_tested_here(database: Database) -> None:
    """A new table has to be thought of in the roles, and here."""
    rows = await database.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'caspen_sync'")
    assert {row["tablename"] for row in rows} == set(TABLES)


async def test_the_writer_writes(database: Database) -> None:
    """A writer needs nothing but its role: its changes get their ids, arrive and wake the workers."""
    heard: list[str] = []
    async with database.pool.acquire() as listener, connected_with(database, "caspen_sync_writer") as conn:
        await listener.add_listener("caspen_sync", lambda *event: heard.append(event[3]))
        await conn.execute(INSERT)
        async with conn.transaction():
            await conn.execute(
                "INSERT INTO caspen_sync.outbox (account, appointment_id, changes, lane, source) "
                "VALUES ('default', 'app_1', '{\"note\": \"n\"}', 'backfill', 'import'), "
                "       ('other', 'app_2', '{\"note\": \"n\"}', DEFAULT, NULL)"
            )
        records = [("default", "app_1", '{"room_id": 1}')]
        columns = ["account", "appointment_id", "changes"]
        await conn.copy_records_to_table("outbox", schema_name="caspen_sync", columns=columns, records=records)
        await eventually(lambda: len(heard) == 4, what="a notification for each account of each transaction")
        await listener.reset()
    rows = await database.rows("SELECT id FROM caspen_sync.outbox ORDER BY id")
    assert len({row["id"] for row in rows}) == 4
    assert await database.value("SELECT count(*) FROM caspen_sync.arrival") == 4


async def test_the_writer_does_nothing_else(database: Database) -> None:
    """No look at what is there, not even at what it wrote; no state, no id, no other table, no sequence, no DDL."""
    await database.write("app_1", {"note": NOTE})
    async with connected_with(database, "caspen_sync_writer") as conn:
        await refused(
            conn,
            f"{INSERT} RETURNING id",
            f"{INSERT} ON CONFLICT (account, id) DO UPDATE SET state = 'synced'",
            "INSERT INTO caspen_sync.outbox SELECT * FROM caspen_sync.outbox",
            "UPDATE caspen_sync.outbox SET state = 'synced'",
            "DELETE FROM caspen_sync.outbox",
            "TRUNCATE caspen_sync.outbox",
            "SELECT nextval('caspen_sync.outbox_id_seq')",
            "SELECT setval('caspen_sync.outbox_id_seq', 1)",
            "SELECT last_value FROM caspen_sync.outbox_id_seq",
            "SELECT caspen_sync.outbox_id()",
            "ALTER TABLE caspen_sync.outbox DISABLE TRIGGER outbox_id",
            "CREATE TABLE caspen_sync.mine ()",
        )
        for column, value in {
            "id": "7",
            "state": "'synced'",
            "attempts": "3",
            "last_error": "'x'",
            "created_at": "now()",
            "as_of": "now()",
            "finished_at": "now()",
        }.items():
            await refused(
                conn,
                f"INSERT INTO caspen_sync.outbox (appointment_id, changes, {column}) "
                f"VALUES ('app_1', '{{\"note\": null}}', {value})",
            )
        for table in TABLES:
            await refused(conn, f"SELECT FROM caspen_sync.{table}", f"DELETE FROM caspen_sync.{table}")
            if table != "outbox":
                await refused(conn, f"INSERT INTO caspen_sync.{table} DEFAULT VALUES")
    assert await database.states() == {"pending": 1}


async def test_the_worker_runs_every_statement(database: Database) -> None:
    """The role is enough for all of the store, end to end: register, take in, claim, retry, settle, pause, welcome,
    outlook and the list of the living."""
    await database.write("app_1", {"note": "a"})
    await database.write("app_2", {"note": "b"}, lane="backfill")
    async with (
        user_with(database, "caspen_sync_worker") as dsn,
        asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool,
    ):
        store = Store(pool, worker="w")
        await require_current_schema(pool)
        await store.register({"default": limits(50)})
        await store.register({"default": limits(59)})
        await store.register({"default": limits(57)})
        await store.heartbeat(["default"], running_s=1.0)
        await store.heartbeat(["default"], running_s=2.0)
        assert await pool.fetchval(query("idle"), ["default"]) is False
        assert await store.take_in(["default"]) == {"default": 2}
        first, second = await claim(store, 2)
        assert await store.take_slot(first, timeout_s=TIMEOUT_S) is not None
        assert await settle(store, accepted(first, {"note": "a"}), settlement(second, due_in_s=0.0)) == []
        held = await the_claim(store)
        assert await settle(store, stopped(held, "refused", wait_s=0.01)) == []
        (probe,) = await eventually(lambda: claim(store), what="a probe")
        assert (await store.outlook(["default"]))[0].pause_kind == "refused"
        assert await settle(store, replace(accepted(probe), welcome=True)) == []
        left = await store.left_over(["default"], lease_s=60.0)
        assert (left.due, left.waiting, left.leased_for_s) == (False, False, None)
        assert await pool.fetchval(query("idle"), ["default"]) is True
        await store.farewell(["default"])

        # Faults of the account: run-ups, what they cost, a fresh token, a limit that the API tells, a shared key.
        await pool.execute(INSERT)
        held = await the_claim(store)
        strict = Store(pool, worker="w", retry=RetrySettings(down_after=1, probe_base_s=0.01))
        assert (await strict.settle([failing(held)], {"default": 0.0})).reinstate == (("default", "down"),)
        assert await store.reinstate("default", "down") == (1, 0)
        assert await store.fresh_tokens({"default": "fingerprint"}) == []
        await store.tell_limit("default", 40, timeout_s=TIMEOUT_S)
        told = BudgetTold(account="default", limit=40, remaining=0, started_at=clock.now())
        assert (await store.hold_back([told]))["default"] > 0
        await pool.execute("UPDATE caspen_sync.rate_slot SET free_at = '-infinity'")
        (probe,) = await eventually(lambda: claim(store), what="a probe")
        explained = Verdict(
            change_id=ids(probe)[0], state="parked", charged=1, error="422", messages='{"message": "x"}'
        )
        own = replace(settlement(probe), verdicts=(explained,), welcome=True, own_fault="422")
        assert (await store.settle([own], {"default": 0.0})).welcomed == ("default",)
        await pool.execute("UPDATE caspen_sync.outbox SET state = 'synced' WHERE state = 'parked'")
        await pool.execute("DELETE FROM caspen_sync.rejection")

        # The operator's commands: backfill writes changes, parked and prune update and delete them.
        await pool.execute(INSERT)
        assert len(ids(await the_claim(store))) == 1
        await pool.execute("UPDATE caspen_sync.outbox SET state = 'discarded' WHERE state = 'pending'")
        await pool.execute("DELETE FROM caspen_sync.outbox WHERE state = 'synced'")
        await pool.execute("DELETE FROM caspen_sync.attempt")
    assert await database.states() == {"discarded": 1}


async def test_the_worker_loads_backfills(database: Database) -> None:
    """Its role is enough from the reading to the end, cancelling and forgetting included."""
    lines = [("app_1", {"note": "old"}), ("app_2", {"note": "old"})]
    await database.write("app_1", {"note": "new"})
    async with (
        user_with(database, "caspen_sync_worker") as dsn,
        asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool,
    ):
        await registered(database)
        as_worker = replace(database, pool=pool, as_worker=pool)
        await (await staged(as_worker, lines)).abandon()
        yesterday = datetime.now(UTC) - timedelta(days=1)
        assert await loaded(as_worker, lines, as_of=yesterday) == Loaded(lines=2, left_out=1, outdated=1)
        assert len(await backfills(pool)) == 1
        assert (await cancel(pool, NAME, who="me", look_on=lambda _: None)).discarded == 1
        await pool.execute(
            "UPDATE caspen_sync.backfill SET (touched_at, loaded_at, cancelled_at) = (now(), now(), now())"
        )
        assert (await prune(pool, retention_days=1e-9)).lines == 2


async def test_the_worker_changes_no_schema(database: Database) -> None:
    """It owns nothing: no DDL, no way around the writers' lock, no say in which migrations were applied."""
    async with connected_with(database, "caspen_sync_worker") as conn:
        await refused(
            conn,
            "CREATE TABLE caspen_sync.mine ()",
            "CREATE FUNCTION caspen_sync.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "DROP SCHEMA caspen_sync CASCADE",
            "ALTER TABLE caspen_sync.outbox DISABLE TRIGGER ALL",
            "SELECT caspen_sync.outbox_id()",
            "SELECT nextval('caspen_sync.outbox_id_seq')",
            "SELECT FROM caspen_sync.appointment_lock",
            "INSERT INTO caspen_sync.appointment_lock VALUES ('default', 'app_1')",
            "DELETE FROM caspen_sync.appointment_lock",
            "INSERT INTO caspen_sync.migration (number, name) VALUES (99, 'mine')",
            "UPDATE caspen_sync.migration SET number = 99",
            "DELETE FROM caspen_sync.migration",
            "TRUNCATE caspen_sync.outbox",
            "CREATE ROLE caspen_sync_test_never",
        )
        for table in TABLES:
            await refused(conn, f"ALTER TABLE caspen_sync.{table} ADD x int", f"DROP TABLE caspen_sync.{table}")


async def test_the_reader_sees_states_and_no_bodies(database: Database) -> None:
    """A dashboard sees what waits, what was refused and why, and who works; of bodies and answers it sees nothing."""
    secret = "Mrs Miller has the flu"
    store = await registered(database)
    await database.write("app_1", {"note": secret})
    await settle(store, accepted(await the_claim(store), {"note": secret}))
    async with connected_with(database, "caspen_sync_reader") as conn:
        states = await conn.fetch(
            "SELECT id, account, appointment_id, lane, source, created_at, as_of, state, attempts, last_error, "
            "finished_at FROM caspen_sync.outbox"
        )
        assert [row["state"] for row in states] == ["synced"]
        synced = await conn.fetch(
            "SELECT account, appointment_id, synced_at, last_change_id FROM caspen_sync.appointment"
        )
        assert len(synced) == 1
        await database.pool.execute(
            "INSERT INTO caspen_sync.intervention (account, action, who, former_changes) VALUES "
            "('default', 'edit', 'me', jsonb_build_object('note', $1::text))",
            secret,
        )
        await database.pool.execute(
            "INSERT INTO caspen_sync.rejection VALUES ('default', 1, now(), jsonb_build_object('message', $1::text))",
            secret,
        )
        done = await conn.fetch(
            "SELECT id, account, change_id, action, at, who, reason, left_out FROM caspen_sync.intervention"
        )
        assert [(row["action"], row["who"]) for row in done] == [("edit", "me")]
        for table in ("attempt", "queue", "account", "rate_slot", "worker", "run_up", "migration", *LISTS):
            assert secret not in str(await conn.fetch(f"SELECT * FROM caspen_sync.{table}"))

        bodies = {
            "outbox": ["changes", "*", "outbox"],
            "appointment": [
                "note",
                "resource",
                "client_id",
                "cancellation_note",
                "starts_at",
                "set_by",
                "*",
                "appointment",
            ],
            "intervention": ["former_changes", "*", "intervention"],
            "rejection": ["messages", "change_id", "*", "rejection"],
            "backfill_line": ["changes", "digest", "*", "backfill_line"],
        }
        for table, columns in bodies.items():
            await refused(conn, *(f"SELECT {column} FROM caspen_sync.{table}" for column in columns))
            await refused(conn, f"COPY caspen_sync.{table} TO STDOUT")
        await refused(
            conn,
            "SELECT id FROM caspen_sync.outbox WHERE changes->>'note' LIKE 'Mrs%'",
            "SELECT account FROM caspen_sync.appointment ORDER BY note",
            INSERT,
            "CREATE TABLE caspen_sync.mine ()",
        )
        for table in TABLES:
            await refused(conn, f"DELETE FROM caspen_sync.{table}", f"INSERT INTO caspen_sync.{table} DEFAULT VALUES")


async def test_strangers_see_nothing(database: Database) -> None:
    """Who was granted no role has no way in: PUBLIC has no right on anything."""
    async with connected_with(database, None) as conn:
        await refused(conn, INSERT, *(f"SELECT FROM caspen_sync.{table}" for table in TABLES))
