"""What lets the schema be split by account: each key and each unique index leads with it, and each statement that runs
gets at a table's rows by it. What a statement reads across accounts is listed here, with the reason; a new statement
has to carry the account, or to be added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg

from tests.support.database import Database
from tests.support.plans import nodes
from worker.config import DatabaseSettings
from worker.database import connect_options
from worker.migrate import migrate
from worker.sqlfiles import sql_dir

WITHOUT_ACCOUNT = {"migration": "which migrations were applied: it is about the schema, and nothing of an account"}

ACROSS: dict[str, dict[str, str]] = {
    "applied_migrations": {"migration": "has no account"},
    "attempts": {"account": "asked for any account: from each to its requests"},
    "backfill_cancel": {"backfill": "a person names a backfill, which may have lines of several accounts"},
    "backfill_waiting": {"backfill": "a person names a backfill, which may have lines of several accounts"},
    "backfills": {"backfill": "the list of all"},
    "change_states": {"account": "a person gave the id of a change and no account: it is looked for in each"},
    "check_accounts": {
        "arrival": "walks from one account that has changes to the next",
        "queue": "walks from one account that has something due to the next",
    },
    "check_wake": {"outbox": "mends whatever is found, by hand"},
    "check_woken": {"outbox": "walks from one account that has pending changes to the next"},
    "glance": {"account": "of every account, from each to what it has"},
    "known_accounts": {"account": "the list of all"},
    "parked_list": {"account": "asked for any account: from each to its parked changes"},
    "parked_of_reason": {"account": "asked for any account: from each to its parked changes"},
    "parked_reasons": {"account": "of every account, from each to its parked changes"},
    "sent_lately": {"account": "of every account, from each to its attempts"},
    "standing": {"account": "asked for an appointment and no account: it is looked for in each"},
    "status": {"account": "of every account, from each to what it has"},
    "strangers": {"arrival": "walks from one account that has changes to the next"},
    "workers": {"worker": "the list of all"},
}

QUERIES = {path.stem: path.read_text("utf-8") for path in sorted((sql_dir() / "queries").glob("*.sql"))}

# Where a plan says by what rows are found. What is only one of several ways (OR) binds nothing.
CONDITIONS = ("Index Cond", "Recheck Cond", "Hash Cond", "Merge Cond", "Join Filter", "Filter")
SAME_ACCOUNT = re.compile(r"\b(\w+)\.account\)? = (?:ANY \()?\(?(?:ARRAY\[)?(?:(\w+)\.account\b|\S+)")
INSERT = re.compile(r"INSERT INTO caspen_sync\.\w+(?: AS \w+)? \(\s*(\w+)")


async def test_every_key_and_unique_index_leads_with_the_account(database: Database) -> None:
    """Of each table that has one, and all have but those that are listed; and no table has rows without an account."""
    tables = {
        row["name"]: row["not_null"]
        for row in await database.rows(
            """
            SELECT c.relname AS name, a.attnotnull AS not_null
            FROM pg_class c
            LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'account'
            WHERE c.relnamespace = 'caspen_sync'::regnamespace AND c.relkind IN ('r', 'p')
            """
        )
    }
    assert {name for name, not_null in tables.items() if not not_null} == set(WITHOUT_ACCOUNT)
    unique = await database.rows(
        """
        SELECT i.indrelid::regclass::text AS table, i.indexrelid::regclass::text AS index, i.indisprimary AS key,
               pg_get_indexdef(i.indexrelid, 1, false) AS first
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid
        WHERE c.relnamespace = 'caspen_sync'::regnamespace AND (i.indisunique OR i.indisexclusion)
        """
    )
    assert {row["index"]: row["first"] for row in unique if row["first"] != "account"} == {}
    assert {f"caspen_sync.{name}" for name in tables if name not in WITHOUT_ACCOUNT} == {
        row["table"] for row in unique if row["key"]
    }


async def test_no_table_refers_to_another(database: Database) -> None:
    """A foreign key would have to carry the account as well; there is none."""
    assert await database.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == 0


async def test_every_statement_carries_the_account(empty_database: str) -> None:
    """Each table that a statement reads is bound by equality of accounts to what it was given, or to rows that were
    found so. What is not is listed above, and nothing is listed that need not be."""
    conn = await asyncpg.connect(**(connect_options(DatabaseSettings()) | {"dsn": empty_database}))
    across: dict[str, set[str]] = {}
    try:
        await migrate(conn)  # not in partitions, where a plan names those, and its conditions now them, now their table
        for name in QUERIES:
            plan = await plan_of(conn, name)
            tables, pairs = tables_read(plan), list(accounts_compared(plan))
            listed = set(ACROSS.get(name, {}))
            assert unbound(tables, pairs, but=listed) == {}, name
            if needed := {table for table in listed if table in unbound(tables, pairs, but=listed - {table}).values()}:
                across[name] = needed
    finally:
        await conn.close()
    assert across == {name: set(tables) for name, tables in ACROSS.items()}


def test_every_insert_names_the_account_first() -> None:
    """The outbox has a default for those who write to it with one account in mind; a worker has many."""
    for name, text in QUERIES.items():
        columns = INSERT.findall(text)
        assert set(columns) <= {"account"}, name
        assert len(columns) == len(re.findall(r"^[^-\n]*\bINSERT INTO\b", text, re.MULTILINE)), name


# As Citus declares it, what we give it at least: it writes down what it was asked for.
CITUS = """
    CREATE TABLE public.asked (nth serial, distributed regclass, by text, beside text);
    CREATE FUNCTION public.create_distributed_table(table_name regclass, distribution_column text, colocate_with text)
    RETURNS void LANGUAGE sql AS 'INSERT INTO public.asked (distributed, by, beside) VALUES ($1, $2, $3)';
"""


async def test_citus_is_asked_for_each_table_that_has_an_account(database: Database) -> None:
    """By the account, and all beside the first; and after the change of triggers each change has its arrival still.
    There is no Citus here: this is all that is known of the file."""
    await database.pool.execute(CITUS)
    await database.pool.execute((sql_dir() / "sharding" / "citus.sql").read_text("utf-8"))
    rows = await database.rows("SELECT distributed::text AS name, by, beside FROM public.asked ORDER BY nth")
    assert [tuple(row) for row in rows[:1]] == [("caspen_sync.account", "account", "none")]
    assert {(row["by"], row["beside"]) for row in rows[1:]} == {("account", "caspen_sync.account")}
    tables = await database.rows(
        "SELECT oid::regclass::text AS name FROM pg_class "
        "WHERE relnamespace = 'caspen_sync'::regnamespace AND relkind IN ('r', 'p') AND relname <> ALL ($1)",
        list(WITHOUT_ACCOUNT),
    )
    assert sorted(row["name"] for row in rows) == sorted(row["name"] for row in tables)
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.outbox (appointment_id, changes, state)
        SELECT 'app_' || n, '{"note": null}', CASE WHEN n > 3 THEN 'parked' ELSE 'pending' END
        FROM generate_series(1, 5) AS n
        """
    )
    assert await database.value("SELECT count(*) FROM caspen_sync.arrival") == 3


async def plan_of(conn: asyncpg.Connection, name: str) -> dict[str, Any]:
    """The plan for any arguments, of a worker's connection."""
    await conn.execute(f"PREPARE {name} AS {QUERIES[name]}")
    arguments = await conn.fetchval(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1", name
    )
    given = f" ({', '.join(['NULL'] * arguments)})" if arguments else ""
    plan: dict[str, Any] = json.loads(await conn.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE {name}{given}"))[0]
    return plan["Plan"]


def tables_read(plan: dict[str, Any]) -> dict[str, str]:
    """Our tables by the name that each has in the statement."""
    return {
        node["Alias"]: node["Relation Name"]
        for node in nodes(plan)
        if node.get("Schema") == "caspen_sync" and "Scan" in node["Node Type"]
    }


def accounts_compared(plan: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Which names have the same account; None: the one that was given, or that stands there."""
    for node in nodes(plan):
        for condition in (node[kind] for kind in CONDITIONS if kind in node):
            if " OR " not in condition:
                for one, other in SAME_ACCOUNT.findall(condition):
                    yield one, other or None


def unbound(tables: dict[str, str], pairs: list[tuple[str, str | None]], *, but: set[str]) -> dict[str, str]:
    """Tables, but for some, of which the rows of other accounts would be read as well. Names of other things, of arrays
    and of parts of the statement, bind what they are compared with: they hold what was given, or was found in tables
    that are bound."""
    free = {name: table for name, table in tables.items() if table not in but}
    while newly := {one for pair in pairs for one, other in (pair, pair[::-1]) if one in free and other not in free}:
        for name in newly:
            del free[name]
    return free
