"""Every right that each role has on anything of the schema, as Postgres itself tells it, against the whole list: a new
column, table or function, or a GRANT too many, cannot slip in."""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.claims import accepted, registered, settle, the_claim
from tests.support.database import Database
from tests.support.roles import connected_with

# "all of it": every column of the table, new ones too.
ALL = "*"
Rights = Mapping[str, Mapping[str, str]]

READER_READS: Mapping[str, str] = {
    "outbox": "id account appointment_id lane source created_at as_of state attempts last_error finished_at",
    "appointment": "account appointment_id synced_at last_change_id",
    "intervention": "id account change_id action at who reason left_out",
    **dict.fromkeys(("arrival", "attempt", "queue", "account", "rate_slot", "worker", "run_up"), ALL),
    **dict.fromkeys(("backfill", "backfill_left_out", "pruned", "migration"), ALL),
}
WORKER_WORKS_ON = (
    *("outbox", "appointment", "arrival", "queue", "account", "rate_slot", "attempt", "worker", "run_up", "rejection"),
    *("intervention", "backfill", "backfill_line", "backfill_left_out", "pruned"),
)
EXPECTED: Mapping[str, Rights] = {
    "caspen_sync_writer": {"INSERT": {"outbox": "account appointment_id changes lane source traceparent"}},
    "caspen_sync_reader": {"SELECT": READER_READS},
    "caspen_sync_worker": {
        "SELECT": dict.fromkeys((*WORKER_WORKS_ON, "migration"), ALL),
        **{right: dict.fromkeys(WORKER_WORKS_ON, ALL) for right in ("INSERT", "UPDATE", "DELETE")},
    },
    "nobody": {},
}
# It runs with the rights of whoever calls it, so there is nothing to keep from anybody.
FOR_ALL = {"newer_fields"}

# Of a table as a whole, which no column has.
_TABLE_RIGHTS = """
SELECT r.what, c.relname AS table, '*' AS column
FROM pg_class c CROSS JOIN unnest(ARRAY['DELETE', 'TRUNCATE', 'TRIGGER']) AS r (what)
WHERE c.relnamespace = 'caspen_sync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND has_table_privilege(c.oid, r.what)
"""
_COLUMN_RIGHTS = """
SELECT r.what, c.relname AS table, a.attname AS column
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS r (what)
WHERE c.relnamespace = 'caspen_sync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND has_column_privilege(c.oid, a.attnum, r.what)
"""
_FUNCTIONS = """
SELECT p.proname AS name, p.prosecdef AS as_owner, p.proconfig AS settings,
    has_function_privilege(p.oid, 'EXECUTE') AS may
FROM pg_proc p WHERE p.pronamespace = 'caspen_sync'::regnamespace
"""
_SEQUENCES = """
SELECT c.relname || ' ' || r.what AS what
FROM pg_class c CROSS JOIN unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS r (what)
WHERE c.relnamespace = 'caspen_sync'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege(c.oid, r.what)
"""
_COLUMNS = """
SELECT c.relname AS table, a.attname AS column
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'caspen_sync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""


async def all_columns(database: Database) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in await database.rows(_COLUMNS):
        found.setdefault(row["table"], set()).add(row["column"])
    return found


@pytest.mark.parametrize("role", EXPECTED)
async def test_each_role_has_what_is_listed_and_nothing_else(database: Database, role: str) -> None:
    """On every column of every table, every view, sequence and function of the schema, and on the schema itself."""
    columns = await all_columns(database)
    wanted = {
        (right, table, column)
        for right, tables in EXPECTED[role].items()
        for table, named in tables.items()
        for column in ([ALL] if right == "DELETE" else columns[table] if named == ALL else named.split())
    }
    async with connected_with(database, role if role != "nobody" else None) as conn:
        rows = [*await conn.fetch(_TABLE_RIGHTS), *await conn.fetch(_COLUMN_RIGHTS)]
        assert {(row["what"], row["table"], row["column"]) for row in rows} == wanted
        assert {row["name"] for row in await conn.fetch(_FUNCTIONS) if row["may"]} <= FOR_ALL
        # The worker's GRANT is on tables; identity columns need no right on their sequence.
        assert [row["what"] for row in await conn.fetch(_SEQUENCES)] == []
        schema = [
            await conn.fetchval("SELECT has_schema_privilege('caspen_sync', $1)", right)
            for right in ("USAGE", "CREATE")
        ]
        assert schema == [role != "nobody", False]
        assert not await conn.fetchval("SELECT has_database_privilege(current_database(), 'CREATE')")


async def test_what_runs_as_the_owner_looks_nowhere_else(database: Database) -> None:
    """Each function that runs with the owner's rights finds Postgres's own functions, and temporary tables last,
    whatever its caller has set; and no view or rule lends the owner's rights to anybody."""
    functions = {row["name"]: row for row in await database.rows(_FUNCTIONS)}
    assert set(functions) == {"outbox_id", "outbox_arrival", "outbox_notify", *FOR_ALL}
    for name, function in functions.items():
        if name in FOR_ALL:
            assert not function["as_owner"]
        else:
            assert function["settings"] == ["search_path=pg_catalog, pg_temp"], name
    others = "SELECT count(*) FROM pg_class WHERE relnamespace = 'caspen_sync'::regnamespace AND relkind IN ('v', 'm')"
    assert await database.value(others) == 0


async def test_public_has_no_right_by_name(database: Database) -> None:
    """Nothing in the schema, nor the schema, has a grant to PUBLIC, which no REVOKE from a role would take away."""
    granted = await database.rows(
        """
        SELECT c.relname::text AS name FROM pg_class c, aclexplode(c.relacl) acl
        WHERE c.relnamespace = 'caspen_sync'::regnamespace AND acl.grantee = 0
        UNION ALL
        SELECT a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid, aclexplode(a.attacl) acl
        WHERE c.relnamespace = 'caspen_sync'::regnamespace AND acl.grantee = 0
        UNION ALL
        SELECT p.proname FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) acl
        WHERE p.pronamespace = 'caspen_sync'::regnamespace AND acl.grantee = 0
        UNION ALL
        SELECT n.nspname FROM pg_namespace n, aclexplode(n.nspacl) acl
        WHERE n.nspname = 'caspen_sync' AND acl.grantee = 0
        """
    )
    assert {row["name"] for row in granted} == FOR_ALL


async def test_statistics_tell_the_reader_no_body(database: Database) -> None:
    """What ANALYZE keeps of bodies (common values, histograms) is shown to who may read the column, and so not to the
    reader; nor does an error, a plan or a function of ours repeat it."""
    store = await registered(database)
    for number in range(40):
        await database.write(f"app_{number}", {"note": NOTE})
        assert await settle(store, accepted(await the_claim(store), {"note": NOTE})) == []
    await database.pool.execute("ANALYZE caspen_sync.outbox, caspen_sync.appointment")
    kept = (
        "SELECT tablename::text, attname::text, most_common_vals::text, histogram_bounds::text "
        "FROM pg_stats WHERE schemaname = 'caspen_sync'"
    )
    assert NOTE in str(await database.rows(kept))
    async with connected_with(database, "caspen_sync_reader") as conn:
        seen = await conn.fetch(kept)
        assert {row["attname"] for row in seen if row["tablename"] == "outbox"} >= {"account", "state"}
        assert not {row["attname"] for row in seen} & {"changes", "note", "resource", "set_by", "client_id"}
        assert NOTE not in str(seen)
        for statement in (
            "SELECT stavalues1::text FROM pg_statistic",
            "SELECT * FROM caspen_sync.newer_fields('default', 'app_1', '-infinity')",
            "SELECT id FROM caspen_sync.outbox WHERE changes::text::int = 1",
            "SELECT (o.*)::text FROM caspen_sync.outbox o",
            "SELECT row_to_json(o) FROM caspen_sync.outbox o",
            "EXPLAIN ANALYZE SELECT note FROM caspen_sync.appointment",
            "SELECT caspen_sync.outbox_id()",
            "COPY caspen_sync.outbox (changes) TO STDOUT",
            "DECLARE x CURSOR WITH HOLD FOR SELECT changes FROM caspen_sync.outbox",
            "CREATE STATISTICS caspen_sync.mine ON state, changes FROM caspen_sync.outbox",
            "SET ROLE caspen_sync_worker",
        ):
            with pytest.raises(asyncpg.PostgresError) as refused:
                await conn.execute(statement)
            assert refused.value.sqlstate == "42501", (statement, refused.value)
            assert NOTE not in str(refused.value)
