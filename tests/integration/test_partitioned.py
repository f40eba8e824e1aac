"""sql/sharding/partitioned.sql: the same schema in partitions, with what was in it, whatever migration comes next; or
nothing at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.support.database import Database
from tests.support.roles import connected_with
from tests.support.sharding import partition, partitioned_sql
from worker.embedded import psql_of_the_wheel
from worker.migrate import known_migrations, migrate
from worker.sqlfiles import sql_dir

PARTITIONS = 4
MIGRATIONS = known_migrations()

# What the schema is made of, each as the catalog says it. An index of a partitioned table calls itself ON ONLY. An
# owner's own rights are not written down until others get some.
CATALOG = {
    "columns": """
        SELECT table_name, column_name, data_type, collation_name, is_nullable, column_default, identity_generation
        FROM information_schema.columns WHERE table_schema = 'caspen_sync'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'caspen_sync'::regnamespace""",
    "indexes": """
        SELECT indexrelid::regclass::text, replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ')
        FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE c.relnamespace = 'caspen_sync'::regnamespace""",
    "triggers": """
        SELECT tgrelid::regclass::text, pg_get_triggerdef(t.oid), tgenabled::text
        FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
        WHERE c.relnamespace = 'caspen_sync'::regnamespace AND NOT tgisinternal""",
    "rights": """
        SELECT c.relname, a.attname, x.grantee::regrole::text, x.privilege_type
        FROM pg_class c
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attacl IS NOT NULL
        CROSS JOIN LATERAL aclexplode(coalesce(a.attacl, c.relacl)) AS x
        WHERE c.relnamespace = 'caspen_sync'::regnamespace AND x.grantee <> c.relowner
        UNION
        SELECT c.relname, NULL, x.grantee::regrole::text, x.privilege_type
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS x
        WHERE c.relnamespace = 'caspen_sync'::regnamespace AND x.grantee <> c.relowner""",
    "owners": """
        SELECT relname, relowner::regrole::text FROM pg_class
        WHERE relnamespace = 'caspen_sync'::regnamespace AND relkind IN ('r', 'p', 'S')""",
    "counters": """
        SELECT c.relname, refobjid::regclass::text, refobjsubid, deptype::text, s.last_value
        FROM pg_depend JOIN pg_class c ON c.oid = objid AND c.relkind = 'S'
        JOIN pg_sequences s ON s.schemaname = 'caspen_sync' AND s.sequencename = c.relname
        WHERE refclassid = 'pg_class'::regclass AND classid = 'pg_class'::regclass""",
}
OPTIONS = """
    SELECT c.relname AS table, p.reloptions AS options, count(*) AS tables
    FROM pg_class c
    LEFT JOIN pg_inherits i ON i.inhparent = c.oid
    JOIN pg_class p ON p.oid = coalesce(i.inhrelid, c.oid)
    WHERE c.relnamespace = 'caspen_sync'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'migration'
    GROUP BY c.relname, p.reloptions
"""
ACCOUNTS = [f"clinic{number}" for number in range(6)]


@pytest.fixture
async def conn(empty_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to an empty database."""
    connection = await asyncpg.connect(empty_database)
    yield connection
    await connection.close()


async def catalog(conn: asyncpg.Connection) -> dict[str, set[tuple[Any, ...]]]:
    return {kind: {tuple(row) for row in await conn.fetch(sql)} for kind, sql in CATALOG.items()}


async def options(conn: asyncpg.Connection) -> dict[str, tuple[Any, int]]:
    """The storage parameters of each table, and how many tables have them: itself, or its partitions."""
    rows = await conn.fetch(OPTIONS)
    assert len({row["table"] for row in rows}) == len(rows)
    return {row["table"]: (row["options"], row["tables"]) for row in rows}


async def write(conn: asyncpg.Connection, changes: int) -> None:
    """So many for each account."""
    await conn.execute(
        """
        INSERT INTO caspen_sync.outbox (account, appointment_id, changes)
        SELECT account, 'app_' || n, '{"note": null}'
        FROM unnest($1::text[]) AS account, generate_series(1, $2::int) AS n
        """,
        ACCOUNTS,
        changes,
    )


async def intervene(conn: asyncpg.Connection) -> int:
    """Something that is counted by an identity column."""
    return await conn.fetchval(
        "INSERT INTO caspen_sync.intervention (account, action, who) VALUES ('default', 'pause', 'ann') RETURNING id"
    )


async def test_it_is_the_same_schema_with_the_same_rows(conn: asyncpg.Connection) -> None:
    """Whatever the catalog knows of the tables stays, storage parameters on each partition, and so do rows and
    counters. A table that is not partitioned has no account."""
    await migrate(conn, with_roles=True)
    await conn.execute("ALTER TABLE caspen_sync.outbox ENABLE ALWAYS TRIGGER outbox_id")
    await write(conn, 50)
    await intervene(conn)
    tables = [row["table"] for row in await conn.fetch(OPTIONS)]
    rows = {table: await conn.fetch(f"SELECT * FROM caspen_sync.{table} ORDER BY {table}::text") for table in tables}
    before, parameters = await catalog(conn), await options(conn)

    await partition(conn, PARTITIONS)
    assert await catalog(conn) == before
    assert await options(conn) == {table: (of, PARTITIONS) for table, (of, _) in parameters.items()}
    for table in tables:
        assert await conn.fetch(f"SELECT * FROM caspen_sync.{table} ORDER BY {table}::text") == rows[table], table
    plain = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'caspen_sync'::regnamespace AND relkind = 'r'"
    )
    assert [row["relname"] for row in plain] == ["migration"]

    newest = await conn.fetchval("SELECT max(id) FROM caspen_sync.outbox")
    await write(conn, 1)
    assert await conn.fetchval("SELECT min(id) FROM caspen_sync.outbox WHERE id > $1", newest) == newest + 1
    assert await intervene(conn) == 2
    assert await conn.fetchval("SELECT count(*) FROM caspen_sync.arrival") == 51 * len(ACCOUNTS)


@pytest.mark.long
@pytest.mark.parametrize("applied", range(1, len(MIGRATIONS)))
async def test_any_migration_may_follow(
    conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, applied: int
) -> None:
    """What was partitioned under an earlier version is brought up to date like any other; run again, it partitions what
    has come new, into as many as there are."""
    await migrate(conn, with_roles=True)
    await partition(conn, PARTITIONS)
    expected, parameters = await catalog(conn), await options(conn)
    await conn.execute("DROP SCHEMA caspen_sync CASCADE; DROP SCHEMA caspen_sync_partitions")

    with monkeypatch.context() as earlier:
        earlier.setattr("worker.migrate.known_migrations", lambda: MIGRATIONS[:applied])
        await migrate(conn)
    await partition(conn, PARTITIONS)
    if applied > 1:  # before, nothing gave changes their id
        await write(conn, 1)
    assert [one.number for one in await migrate(conn, with_roles=True)] == [one.number for one in MIGRATIONS[applied:]]
    await conn.execute("RESET caspen_sync.partitions")
    await conn.execute(partitioned_sql())
    await conn.execute("TRUNCATE caspen_sync.outbox RESTART IDENTITY")
    assert await catalog(conn) == expected
    assert await options(conn) == parameters
    assert await migrate(conn, with_roles=True) == []


async def test_run_again_it_does_nothing(conn: asyncpg.Connection) -> None:
    """Also with another number of partitions: the tables stay, and so do their rows."""
    await migrate(conn)
    await partition(conn, PARTITIONS)
    before = await conn.fetch("SELECT oid, relname FROM pg_class ORDER BY oid")
    await partition(conn, 2 * PARTITIONS)
    assert await conn.fetch("SELECT oid, relname FROM pg_class ORDER BY oid") == before


@pytest.mark.long
async def test_with_psql_as_it_is_documented(empty_database: str, conn: asyncpg.Connection) -> None:
    """The number of partitions is a setting of the session; without, there are 16."""
    name = await conn.fetchval("SELECT current_database()")
    await conn.execute(f"ALTER DATABASE {name} SET enable_partition_pruning = off")
    psql = [psql_of_the_wheel(), "-qX", "-v", "ON_ERROR_STOP=1", "-f", sql_dir() / "sharding" / "partitioned.sql"]
    for options, partitions in (["-c", "SET caspen_sync.partitions = 3"], 3), ([], 16):
        await migrate(conn)
        process = await asyncio.create_subprocess_exec(*psql[:4], *options, *psql[4:], empty_database)
        assert await process.wait() == 0
        count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'caspen_sync.queue'::regclass"
        assert await conn.fetchval(count) == partitions
        await conn.execute("DROP SCHEMA caspen_sync CASCADE")


async def test_roles_may_come_later(conn: asyncpg.Connection) -> None:
    """`migrate --roles` after it grants what it grants before it."""
    await migrate(conn, with_roles=True)
    before = await catalog(conn)
    await conn.execute("DROP SCHEMA caspen_sync CASCADE")
    await migrate(conn)
    await partition(conn, PARTITIONS)
    await migrate(conn, with_roles=True)
    assert (await catalog(conn))["rights"] == before["rights"]


async def test_nobody_goes_past_the_table(partitioned: Database) -> None:
    """Writers write by way of the outbox, whose rights and triggers count; a partition is out of everybody's reach."""
    async with connected_with(partitioned, "caspen_sync_writer") as writer:
        await writer.execute(
            """INSERT INTO caspen_sync.outbox (appointment_id, changes) VALUES ('app_1', '{"note": null}')"""
        )
    assert await partitioned.value("SELECT count(*) FROM caspen_sync.arrival") == 1
    for role in ("caspen_sync_writer", "caspen_sync_worker", "caspen_sync_reader"):
        async with connected_with(partitioned, role) as somebody:
            for statement in ("SELECT FROM", "DELETE FROM"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await somebody.execute(f"{statement} caspen_sync_partitions.outbox_0")


async def test_a_superuser_may_do_it_for_the_owner(conn: asyncpg.Connection) -> None:
    """All belongs to whom it belonged to before, with whose rights the triggers write, and who migrates next."""
    owner = f"{await conn.fetchval('SELECT current_database()')}_owner"
    await conn.execute(f"CREATE ROLE {owner}; GRANT CREATE ON DATABASE {owner.removesuffix('_owner')} TO {owner}")
    try:
        await conn.execute(f"SET ROLE {owner}")
        await migrate(conn)
        await conn.execute("RESET ROLE")
        await partition(conn, PARTITIONS)
        assert await conn.fetchval("SELECT current_user") != owner
        owners = await conn.fetch(
            "SELECT DISTINCT relowner::regrole::text AS name FROM pg_class "
            "WHERE relnamespace::regnamespace::text IN ('caspen_sync', 'caspen_sync_partitions')"
        )
        assert [row["name"] for row in owners] == [owner]
        await write(conn, 1)
    finally:
        await conn.execute(f"RESET ROLE; DROP OWNED BY {owner} CASCADE; DROP ROLE {owner}")


async def test_a_server_that_would_crash_is_left_alone(conn: asyncpg.Connection) -> None:
    """It says what to do instead; with that done, it goes on. Any other server is asked for nothing."""
    await migrate(conn)
    await conn.execute("SET enable_partition_pruning = on")
    if 180000 <= int(await conn.fetchval("SHOW server_version_num")) <= 180006:
        with pytest.raises(asyncpg.RaiseError, match="can crash under partitioned tables") as refused:
            await conn.execute(partitioned_sql())
        assert "SET enable_partition_pruning = off" in refused.value.hint
        await conn.execute("SET enable_partition_pruning = off")
    await conn.execute(partitioned_sql())
    assert await conn.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = 'caspen_sync.queue'::regclass") == 16


async def test_what_it_cannot_do_it_says_and_leaves_alone(empty_database: str, conn: asyncpg.Connection) -> None:
    """No schema, no partitions, somebody's view, somebody's transaction: an error, and nothing is any different."""
    with pytest.raises(asyncpg.RaiseError, match="there is no schema caspen_sync"):
        await conn.execute(partitioned_sql())
    await migrate(conn)
    before = await conn.fetch("SELECT oid, relname, relnamespace FROM pg_class ORDER BY oid")
    with pytest.raises(asyncpg.RaiseError, match="must be at least 1"):
        await partition(conn, 0)
    await conn.execute("CREATE VIEW public.mine AS SELECT note FROM caspen_sync.appointment")
    with pytest.raises(asyncpg.DependentObjectsStillExistError, match=r"view mine|appointment"):
        await partition(conn, PARTITIONS)
    await conn.execute("DROP VIEW public.mine")
    other = await asyncpg.connect(empty_database)
    async with other.transaction():
        await other.execute("SELECT FROM caspen_sync.queue")
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with asyncio.timeout(10):
                await partition(conn, PARTITIONS)
    await other.close()
    assert await conn.fetch("SELECT oid, relname, relnamespace FROM pg_class ORDER BY oid") == before
