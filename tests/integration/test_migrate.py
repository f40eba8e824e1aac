"""The schema: brought up to date from anywhere, at any time, all or nothing; and every key compares by bytes."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

import worker
from tests.support.canary import NOTE
from tests.support.claims import blocked
from tests.support.database import Database
from tests.support.waiting import eventually
from worker.errors import DatabaseRefused, SchemaMissing, SchemaTooNew
from worker.migrate import known_migrations, migrate, require_current_schema
from worker.sqlfiles import query, roles, sql_dir

# The advisory lock that hosts take which migrate: the bytes of "caspen".
LOCK = int.from_bytes(b"caspen", "big")
ALL = [migration.number for migration in known_migrations()]


async def applied(conn: asyncpg.Connection) -> list[int]:
    return [row["number"] for row in await conn.fetch("SELECT number FROM caspen_sync.migration ORDER BY number")]


async def shape(conn: asyncpg.Connection) -> set[tuple[str, ...]]:
    """Everything that the schema is made of, by name and kind."""
    rows = await conn.fetch(
        """
        SELECT 'relation', relname::text, relkind::text FROM pg_class WHERE relnamespace = 'caspen_sync'::regnamespace
        UNION ALL
        SELECT 'function', proname, md5(prosrc) FROM pg_proc WHERE pronamespace = 'caspen_sync'::regnamespace
        UNION ALL
        SELECT 'trigger', tgname, tgrelid::regclass::text FROM pg_trigger WHERE tgrelid = 'caspen_sync.outbox'::regclass
        """
    )
    return {tuple(row) for row in rows}


def test_migrations_are_numbered_without_gaps() -> None:
    """0001, 0002, …: each once; and no file beside them that would be skipped in silence."""
    assert list(range(1, len(ALL) + 1)) == ALL
    assert {migration.path for migration in known_migrations()} == set((sql_dir() / "migrations").iterdir())


def test_the_sql_ships_with_the_package() -> None:
    """Every statement that the package names is there, and every file that is there is named."""
    there = {path.stem for path in (sql_dir() / "queries").iterdir()}
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(worker.__file__).parent.rglob("*.py"))
    assert set(re.findall(r'query\(\s*"(\w+)"', sources)) == there
    assert all(query(name).strip() for name in there)
    assert "caspen_sync_writer" in roles()


async def test_migrate_twice(empty_database: str) -> None:
    """The first time applies everything, the second nothing; a process then starts."""
    conn = await asyncpg.connect(empty_database)
    assert [migration.number for migration in await migrate(conn)] == ALL
    before = await shape(conn)
    assert await migrate(conn, with_roles=True) == []
    assert await migrate(conn, with_roles=True) == []
    assert await shape(conn) == before
    assert await applied(conn) == ALL
    await require_current_schema(conn)
    await conn.close()


async def test_hosts_that_migrate_at_once(empty_database: str) -> None:
    """Of five hosts at once one applies each migration, the others wait for it; all succeed, roles included."""
    connections = await asyncio.gather(*(asyncpg.connect(empty_database) for _ in range(5)))
    done = await asyncio.gather(*(migrate(conn, with_roles=True) for conn in connections))
    assert sorted(migration.number for some in done for migration in some) == ALL
    assert await applied(connections[0]) == ALL
    for conn in connections:
        await require_current_schema(conn)
        await conn.close()


@pytest.mark.long
async def test_a_slow_migration_is_waited_for(empty_database: str) -> None:
    """The second host waits for the first for as long as that takes, not only for as long as a migration may wait for
    a lock on a table."""
    first, second, watcher = await asyncio.gather(*(asyncpg.connect(empty_database) for _ in range(3)))
    await migrate(first)
    await first.execute("SELECT pg_advisory_lock($1)", LOCK)
    waiting = asyncio.create_task(migrate(second))

    async def waited_for_long() -> bool:
        return waiting.done() or await watcher.fetchval(
            "SELECT waitstart < clock_timestamp() - interval '1.5 s' FROM pg_locks WHERE pid = $1 AND NOT granted",
            second.get_server_pid(),
        )

    await eventually(waited_for_long, what="the second has waited for longer than lock_timeout")
    await first.execute("SELECT pg_advisory_unlock($1)", LOCK)
    assert await waiting == []
    for conn in (first, second, watcher):
        await conn.close()


async def test_a_migration_does_not_queue_up_before_writers(database: Database) -> None:
    """A migration that cannot get its lock on the outbox gives up soon, and writers go on."""
    writer, host = await asyncio.gather(*(asyncpg.connect(database.dsn) for _ in range(2)))
    await migrate(host)
    assert await host.fetchval("SHOW lock_timeout") == "1s"
    await host.execute("SET lock_timeout = '100ms'")
    await writer.execute("BEGIN")
    await database.write("app_1", {"note": NOTE}, conn=writer)
    altering = asyncio.create_task(host.execute("ALTER TABLE caspen_sync.outbox ADD COLUMN extra int"))
    with pytest.raises(asyncpg.LockNotAvailableError):
        await altering
    await database.write("app_2", {"note": NOTE})
    await writer.execute("COMMIT")
    await writer.close()
    await host.close()


async def test_a_migration_waits_for_its_moment(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a writer's transaction is open for longer, the migration lets other writers go on, again and again, and is
    applied once the writer is done."""
    monkeypatch.setattr("worker.migrate._LOCK_TIMEOUT", "SET lock_timeout = '100ms'")
    async with database.pool.acquire() as conn:
        await conn.execute("ALTER TABLE caspen_sync.outbox DROP COLUMN traceparent")
        await conn.execute("DELETE FROM caspen_sync.migration WHERE number = 4")
    writer, host = await asyncio.gather(*(asyncpg.connect(database.dsn) for _ in range(2)))
    await writer.execute("BEGIN")
    await database.write("app_1", {"note": NOTE}, conn=writer)
    migrating = asyncio.create_task(migrate(host))
    for number in range(20):
        await database.write(f"app_{number + 2}", {"note": NOTE})
        await asyncio.sleep(0.1)
    assert not migrating.done()
    await writer.execute("COMMIT")
    assert [migration.number for migration in await migrating] == [4]
    (said,) = capsys.readouterr().err.splitlines()
    assert "somebody's transaction holds it" in said
    await writer.close()
    await host.close()


async def test_a_newer_schema_is_refused(database: Database) -> None:
    """A program never touches a schema that knows a later migration, and says what to do."""
    async with database.pool.acquire() as conn:
        later = ALL[-1] + 1
        await conn.execute("INSERT INTO caspen_sync.migration (number, name) VALUES ($1, 'later')", later)
        before = await shape(conn)
        for refused in (migrate(conn), require_current_schema(conn)):
            with pytest.raises(SchemaTooNew, match=f"migration {later}.*newer caspen-sync"):
                await refused
        assert await shape(conn) == before
        await conn.execute("DELETE FROM caspen_sync.migration WHERE number = $1", later)
        assert await migrate(conn) == []


async def test_a_missing_schema_is_named(empty_database: str) -> None:
    """Without a schema, and with only part of it, a process does not start, and says what to run."""
    conn = await asyncpg.connect(empty_database)
    with pytest.raises(SchemaMissing, match="caspen-sync migrate"):
        await require_current_schema(conn)
    await migrate(conn)
    await conn.execute("DELETE FROM caspen_sync.migration WHERE number = $1", ALL[-1])
    with pytest.raises(SchemaMissing, match=f"lacks migration {ALL[-1]}; run caspen-sync migrate"):
        await require_current_schema(conn)
    await conn.close()


async def test_a_failing_migration_leaves_nothing_half_done(empty_database: str) -> None:
    """When a migration fails in its middle, what it did before is undone, those before it stay, and the next host can
    go on at once when the obstacle is gone."""
    conn, other = await asyncio.gather(*(asyncpg.connect(empty_database) for _ in range(2)))
    await conn.execute("CREATE SCHEMA caspen_sync")
    await conn.execute("CREATE FUNCTION caspen_sync.outbox_arrival() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(DatabaseRefused, match=r"0002_triggers\.sql"):
        await migrate(conn)
    assert await applied(conn) == [1]
    assert ("function", "outbox_id") not in {item[:2] for item in await shape(conn)}
    assert "trigger" not in {item[0] for item in await shape(conn)}

    await conn.execute("DROP FUNCTION caspen_sync.outbox_arrival()")
    assert [migration.number for migration in await migrate(other)] == ALL[1:]
    await require_current_schema(conn)
    await conn.close()
    await other.close()


async def test_a_host_that_dies_lets_the_next_one_go_on(empty_database: str) -> None:
    """The lock goes with its connection: no host has to be waited for that is gone."""
    dead, other = await asyncio.gather(*(asyncpg.connect(empty_database) for _ in range(2)))
    await dead.execute("SELECT pg_advisory_lock($1)", LOCK)
    waiting = asyncio.create_task(migrate(other))
    async with asyncpg.create_pool(empty_database, min_size=1, max_size=1) as pool:
        await blocked(Database(dsn=empty_database, pool=pool), other.get_server_pid())
    dead.terminate()
    assert [migration.number for migration in await waiting] == ALL
    await other.close()


async def test_keys_compare_by_bytes(database: Database) -> None:
    """Every text column that names something in an index is COLLATE "C", so that no update of the operating system
    corrupts an index or reverses a lock order. `lane` is one of two plain words, which all collations sort alike."""
    columns = await database.rows(
        """
        SELECT DISTINCT a.attrelid::regclass::text || '.' || a.attname AS name, l.collname
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        JOIN pg_collation l ON l.oid = a.attcollation
        WHERE c.relnamespace = 'caspen_sync'::regnamespace
        """
    )
    others = {row["name"] for row in columns if row["collname"] != "C"}
    assert {name for name in others if not name.endswith(".lane")} == set()
    ids = await database.rows(
        """
        SELECT a.attrelid::regclass::text || '.' || a.attname AS name, l.collname
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname IN ('account', 'appointment_id') AND a.attnum > 0
        JOIN pg_collation l ON l.oid = a.attcollation
        WHERE c.relnamespace = 'caspen_sync'::regnamespace AND c.relkind IN ('r', 'p')
        """
    )
    assert {row["name"] for row in ids if row["collname"] != "C"} == set()
    assert len(ids) >= 13
