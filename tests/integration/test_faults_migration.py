"""Migrations 0003 and 0004 on a database that has run for a while: what they compute, what they grant, whom they keep
waiting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.database import Database
from tests.support.roles import connected_with
from worker.migrate import known_migrations, migrate
from worker.sqlfiles import roles

# One with something parked, one with something pending, one with neither, and one that never was synced.
WRITTEN = [
    ("app_parked", {"note": "a", "room_id": 1}, "synced"),
    ("app_parked", {"note": "b"}, "parked"),
    ("app_parked", {"note": "c", "confirmed": True}, "synced"),
    ("app_pending", {"note": "a"}, "synced"),
    ("app_pending", {"note": "b"}, "pending"),
    ("app_done", {"note": "a"}, "synced"),
    ("app_new", {"note": "a"}, "parked"),
]


@pytest.fixture
async def earlier(empty_database: str) -> AsyncIterator[Database]:
    """A database of the version before, with changes in it."""
    pool = await asyncpg.create_pool(empty_database, min_size=0, max_size=5)
    conn = await asyncpg.connect(empty_database)
    await conn.execute(
        "CREATE SCHEMA caspen_sync; CREATE TABLE caspen_sync.migration (number integer NOT NULL, name text NOT NULL, "
        "applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    for migration in known_migrations()[:2]:
        await conn.execute(migration.path.read_text(encoding="utf-8"))
        await conn.execute(
            "INSERT INTO caspen_sync.migration (number, name) VALUES ($1, $2)", migration.number, migration.name
        )
    for appointment_id, changes, state in WRITTEN:
        number = await conn.fetchval(
            "INSERT INTO caspen_sync.outbox (appointment_id, changes, state) VALUES ($1, $2, $3) RETURNING id",
            appointment_id,
            json.dumps(changes),
            state,
        )
        if state == "synced":
            await conn.execute(
                "INSERT INTO caspen_sync.appointment (account, appointment_id, resource, synced_at, last_change_id) "
                "VALUES ('default', $1, '{}', now(), $2) ON CONFLICT (account, appointment_id) "
                "DO UPDATE SET last_change_id = excluded.last_change_id",
                appointment_id,
                number,
            )
    await conn.close()
    try:
        yield Database(dsn=empty_database, pool=pool)
    finally:
        pool.terminate()


async def test_which_change_set_each_field_is_computed_where_it_is_needed(earlier: Database) -> None:
    """For appointments with something parked or pending, out of what was synced; for no other."""
    conn = await asyncpg.connect(earlier.dsn)
    assert [migration.number for migration in await migrate(conn)] == [3, 4, 5, 6, 7]
    await conn.close()
    rows = await earlier.rows("SELECT appointment_id, set_by FROM caspen_sync.appointment")
    assert {row["appointment_id"]: json.loads(row["set_by"]) for row in rows} == {
        "app_parked": {"note": 3, "room_id": 1, "confirmed": 3},
        "app_pending": {"note": 4},
        "app_done": {},
    }
    assert await earlier.value("SELECT count(*) FROM caspen_sync.outbox") == len(WRITTEN)


async def test_the_rights_arrive_without_the_roles_being_made_again(earlier: Database) -> None:
    """Where `migrate --roles` ran for the version before, migrate alone gives worker and reader what is new: all of it
    to the one, and to the other nothing that holds a body."""
    old_roles = "\n".join(
        line
        for line in roles()
        .replace("caspen_sync.run_up, ", "")
        .replace(", traceparent", "")
        .replace(", as_of", "")
        .replace("caspen_sync.backfill, caspen_sync.backfill_left_out,", "")
        .replace("caspen_sync.pruned, ", "")
        .splitlines()
        if "action, at, who" not in line and "caspen_sync.intervention" not in line
    )
    conn = await asyncpg.connect(earlier.dsn)
    await conn.execute(old_roles)
    await migrate(conn)
    await conn.close()
    async with connected_with(earlier, "caspen_sync_worker") as worker:
        for table in ("run_up", "rejection", "intervention"):
            await worker.execute(f"SELECT * FROM caspen_sync.{table}; DELETE FROM caspen_sync.{table}")
        for table in ("backfill", "backfill_line", "backfill_left_out", "pruned"):
            await worker.execute(f"SELECT * FROM caspen_sync.{table}; DELETE FROM caspen_sync.{table}")
        await worker.execute("SELECT set_by FROM caspen_sync.appointment")
        await worker.execute(
            "UPDATE caspen_sync.rate_slot SET held_until = NULL; UPDATE caspen_sync.queue SET again = 0"
        )
        await worker.execute(
            "INSERT INTO caspen_sync.intervention (account, action, who) VALUES ('default', 'pause', 'me')"
        )
    async with connected_with(earlier, "caspen_sync_writer") as writer:
        await writer.execute(
            "INSERT INTO caspen_sync.outbox (appointment_id, changes, traceparent) "
            "VALUES ('app_x', '{\"note\": null}', 'x')"
        )
    async with connected_with(earlier, "caspen_sync_reader") as reader:
        for table in ("run_up", "backfill", "backfill_left_out", "pruned"):
            await reader.execute(f"SELECT * FROM caspen_sync.{table}")
        await reader.execute("SELECT as_of FROM caspen_sync.outbox")
        await reader.execute(
            "SELECT id, account, change_id, action, at, who, reason, left_out FROM caspen_sync.intervention"
        )
        for bodies in (
            "former_changes FROM caspen_sync.intervention",
            "* FROM caspen_sync.rejection",
            "* FROM caspen_sync.backfill_line",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(f"SELECT {bodies}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute("SELECT set_by FROM caspen_sync.appointment")


async def test_writers_and_the_migration_do_not_wait_for_each_other(earlier: Database) -> None:
    """A writer in the middle of its transaction does not hold the migration up, and goes on while it runs, as do
    others; the outbox is locked against nobody."""
    writer, host, watcher = await asyncio.gather(*(asyncpg.connect(earlier.dsn) for _ in range(3)))
    await writer.execute("BEGIN")
    await earlier.write("app_parked", {"note": "open"}, conn=writer)
    await writer.execute("UPDATE caspen_sync.outbox SET source = 'x' WHERE appointment_id = 'app_pending'")
    # Half-way: the whole migration is in a transaction that has not committed yet.
    await host.execute("SET lock_timeout = '2s'; BEGIN")
    async with asyncio.timeout(10):
        await host.execute(known_migrations()[2].path.read_text(encoding="utf-8"))
        strongest = await watcher.fetch(
            "SELECT DISTINCT mode FROM pg_locks WHERE relation = 'caspen_sync.outbox'::regclass AND pid = $1",
            host.get_server_pid(),
        )
        assert {row["mode"] for row in strongest} == {"AccessShareLock"}
        await earlier.write("app_parked_other", {"note": "meanwhile"})
        await earlier.write("app_parked", {"note": "open still"}, conn=writer)
        await writer.execute("COMMIT")
        await host.execute("COMMIT")
    for conn in (writer, host, watcher):
        await conn.close()
    assert await earlier.value("SELECT count(*) FROM caspen_sync.arrival") == 4
