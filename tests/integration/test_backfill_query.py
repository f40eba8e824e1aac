"""Backfills out of a query, against a real Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support import canary
from tests.support.database import Database, with_database
from tests.support.pgbouncer import PgBouncer, pgbouncer
from tests.support.rawserver import closed_port
from tests.support.sources import Found, found, found_in, settings
from tests.support.waiting import eventually
from worker.backfill.query import BATCH_ROWS
from worker.backfill.rejects import Rejects
from worker.backfill.sources import Asked, source_from
from worker.errors import CaspenSyncError, DatabaseUnreachable, SourceError, UsageError


async def asked(dsn: str, sql: str, **sections: Any) -> Found:
    """What the query yields, run in the worker's own database."""
    return await found(Asked(query=sql), settings(database={"dsn": dsn}, **sections))


async def test_columns_become_changes(server_dsn: str) -> None:
    """Each type as the API wants it, and NULL as null; the row's number is its line."""
    read = await asked(
        server_dsn,
        """
        SELECT 'app_' || n AS appointment_id, n AS room_id, 7::numeric AS case_id, NULL::bigint AS vehicle_id,
               'é'::varchar AS note, n = 1 AS confirmed, '2024-01-01T10:00:00+01'::timestamptz AS starts_at,
               ARRAY[1, 2] AS resource_ids, '2024-01-01T11:00:00+01:00'::text AS ends_at
        FROM generate_series(1, 2) AS n;
        """,
    )
    assert not read.problems
    one = {
        "room_id": 1, "case_id": 7, "vehicle_id": None, "note": "é", "confirmed": True, "resource_ids": [1, 2],
        "starts_at": "2024-01-01T09:00:00+00:00", "ends_at": "2024-01-01T11:00:00+01:00",
    }  # fmt: skip
    assert read.said == [("app_1", one), ("app_2", one | {"room_id": 2, "confirmed": False})]
    assert [(row.line, row.cleared) for row in read.rows] == [(1, ("vehicle_id",)), (2, ("vehicle_id",))]


@pytest.mark.parametrize("kind", ["jsonb", "json", "text"])
async def test_changes_may_be_one_column(server_dsn: str, kind: str) -> None:
    """So that a query can leave fields absent: jsonb_strip_nulls."""
    read = await asked(
        server_dsn,
        f"""SELECT n AS appointment_id,
                   jsonb_strip_nulls(jsonb_build_object('note', x, 'room_id', n))::{kind} AS changes
            FROM (VALUES (1, 'a'), (2, NULL)) AS v (n, x)""",
    )
    assert read.said == [("1", {"note": "a", "room_id": 1}), ("2", {"room_id": 2})]


async def test_ids_and_accounts(server_dsn: str) -> None:
    """An appointment's id may be a number or a uuid, as text; account may be NULL."""
    read = await asked(
        server_dsn,
        """SELECT gen_random_uuid() AS appointment_id, a AS account, 7 AS room_id
           FROM (VALUES ('north'), (NULL)) AS v (a)""",
        accounts={"default": {}, "north": {}},
    )
    assert [row.account for row in read.rows] == ["north", "default"]
    assert all(len(row.appointment_id) == 36 for row in read.rows)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ("timestamp '2024-01-01' AS starts_at", "starts_at: has no time zone: select it AT TIME ZONE"),
        ("timestamptz 'infinity' AS starts_at", "starts_at: is infinite"),
        ("timestamptz '-infinity' AS ends_at", "ends_at: is infinite"),
        ("timestamp 'infinity' AS starts_at", "starts_at: is infinite"),
        ("date '2024-01-01' AS starts_at", "starts_at: is of a type that no field can hold"),
        ("1.5::numeric AS room_id", "room_id: is of a type that no field can hold"),
        ("'NaN'::numeric AS room_id", "room_id: is of a type that no field can hold"),
        ("1.5::float AS room_id", "room_id: is of a type that no field can hold"),
        ("1e300::numeric AS room_id", "room_id: is of a type that no field can hold"),
        ("'\\x00'::bytea AS note", "note: is of a type that no field can hold"),
        ("ARRAY[NULL, 1] AS resource_ids", "resource_ids: must be an integer"),
        ("ARRAY[ARRAY[1]] AS resource_ids", "resource_ids: must be an integer"),
        ("7 AS note", "note: must be a string"),
        ("NULL::text AS changes", "changes: is null"),
        ("7 AS changes", "changes: must be jsonb, json or text"),
        ("'x' AS changes", "changes: is not JSON: expected value"),
        ('\'{"note": "\\ud800"}\'::json AS changes', "changes: is not JSON"),
        ('\'{"note": "\\u0000"}\'::json AS changes', "note: must hold no NUL"),
        ("'{}' AS changes", "changes: must name at least one field"),
        ("'[1]' AS changes", "changes: must be a JSON object"),
    ],
)
async def test_what_is_wrong_with_a_row(server_dsn: str, columns: str, problem: str) -> None:
    """Each value that cannot be sent is a problem of its field; nothing ends in a traceback."""
    read = await asked(server_dsn, f"SELECT 'app_1' AS appointment_id, {columns}")
    assert problem in read.problems[1]
    assert read.problems[1].count(columns.rpartition(" ")[2] + ":") <= 1
    assert json.loads(read.rejects[0].raw)["appointment_id"] == "app_1"


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("", "returns no rows"),
        ("SELECT 'a' AS appointment_id, 7 AS romo_id", "none of a change: romo_id; there are appointment_id, account"),
        ("SELECT 7 AS room_id", "has no column appointment_id"),
        ("SELECT 'a' AS appointment_id", "names nothing to set"),
        ("SELECT 'a' AS appointment_id, 1 AS room_id, 2 AS room_id", "more than once: room_id"),
        ("SELECT 'a' AS appointment_id, '{}' AS changes, 2 AS room_id", "changes, and columns of fields beside it"),
        ("SELEC 1", r'syntax error at or near "SELEC" \(at character 1\)'),
        ("SELECT 1; SELECT 2", "cannot insert multiple commands"),
        ("SELECT x AS appointment_id", 'column "x" does not exist'),
        ("SELECT $1::text AS appointment_id, 7 AS room_id", "takes parameters"),
        ("COMMIT", "returns no rows"),
        ("DELETE FROM pg_description WHERE false", "returns no rows"),
        (
            "DELETE FROM pg_description WHERE false RETURNING description AS appointment_id, 7 AS room_id",
            "cannot execute DELETE in a read-only transaction",
        ),
        (
            "SELECT 'a' AS appointment_id, 'Mrs Canary'::int AS room_id",
            r"InvalidTextRepresentationError \(SQLSTATE 22P02\)",
        ),
        (
            "SELECT n AS appointment_id, n::regclass::int AS room_id FROM (VALUES ('Canary')) v (n) LIMIT random() + 1",
            "UndefinedTableError",
        ),
        ("SELECT timestamptz '0044-03-15 BC' AS starts_at, 'a' AS appointment_id", "none that Python has"),
    ],
)
async def test_queries_that_are_none(server_dsn: str, sql: str, words: str) -> None:
    """They are refused in Postgres's own words, but for those that could quote a value."""
    with pytest.raises(SourceError, match=words) as refused:
        await asked(server_dsn, sql)
    assert "Canary" not in str(refused.value)


async def test_what_stops_a_query_midway_is_told(server_dsn: str) -> None:
    """After which row; and never with the value."""
    sql = f"SELECT n::text AS appointment_id, 1 / (n - {BATCH_ROWS + 1}) AS room_id FROM generate_series(1, 9999) AS n"
    with pytest.raises(SourceError, match=rf"--query: Postgres refused it after row {BATCH_ROWS}: DivisionByZeroError"):
        await asked(server_dsn, sql)


async def test_what_the_database_has_to_say(database: Database) -> None:
    """A right that is missing is named; the words of a function, which may be anything, are not passed on."""
    await database.pool.execute(
        """CREATE TABLE secret (appointment_id text, note text);
           CREATE FUNCTION tell() RETURNS int LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION 'Mrs Canary coughs' USING ERRCODE = '42501'; END $$"""
    )
    with pytest.raises(SourceError, match="InsufficientPrivilegeError") as refused:
        await asked(database.dsn, "SELECT 'a' AS appointment_id, tell() AS room_id")
    assert "Canary" not in str(refused.value)
    dsn = database.dsn + ("&" if "?" in database.dsn else "?") + "role=caspen_sync_reader"
    with pytest.raises(SourceError, match="permission denied for table secret"):
        await found(Asked(query="SELECT * FROM secret", query_dsn=dsn), settings())


async def test_another_database(server_dsn: str) -> None:
    """--query-dsn, and not the worker's own."""
    read = await found(
        Asked(
            query="SELECT current_database() AS appointment_id, 7 AS room_id",
            query_dsn=with_database(server_dsn, "template1"),
        ),
        settings(database={"dsn": server_dsn}),
    )
    assert read.said == [("template1", {"room_id": 7})]


async def test_a_query_out_of_a_file(server_dsn: str, tmp_path: Path) -> None:
    """Byte order mark, comments and the semicolon are fine, and errors name the file."""
    path = tmp_path / "year.sql"
    configured = settings(database={"dsn": server_dsn})
    path.write_bytes(b"\xef\xbb\xbf-- rooms\nSELECT 'app_1' AS appointment_id, 7 AS room_id; -- that is all\n")
    assert (await found(Asked(query_file=path), configured)).said == [("app_1", {"room_id": 7})]
    path.write_bytes(b"SELECT 7 AS room_id")
    with pytest.raises(SourceError, match=r"year\.sql: has no column"):
        await found(Asked(query_file=path), configured)


async def test_databases_that_cannot_be_reached() -> None:
    """Nobody there is 69, a DSN that is none bad usage; a password is in neither message."""
    canary.sing("pass-of-Mrs-Canary")
    for dsn, error in (
        (f"postgresql://user:pass-of-Mrs-Canary@127.0.0.1:{closed_port()}/x", DatabaseUnreachable),
        ("postgresql://user:pass-of-Mrs-Canary@:::/x", UsageError),
        ("mysql://user:pass-of-Mrs-Canary@127.0.0.1/x", UsageError),
    ):
        with pytest.raises(CaspenSyncError) as refused:
            await found(Asked(query="SELECT 1", query_dsn=dsn), settings())
        assert type(refused.value) is error
        assert "Canary" not in str(refused.value)


async def test_a_database_that_is_not_there(server_dsn: str) -> None:
    """In Postgres's words."""
    dsn = with_database(server_dsn, "no_such")
    with pytest.raises(SourceError, match=r'database "no_such.*" does not exist'):
        await found(Asked(query="SELECT 1", query_dsn=dsn), settings())


@contextlib.asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(dsn)
    try:
        yield conn
    finally:
        await conn.close()


async def _ended(conn: asyncpg.Connection, marked: str) -> bool:
    others = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE $1 AND pid <> pg_backend_pid()"
    return not await conn.fetchval(others, f"%{marked}%")


async def test_rows_come_in_batches_as_the_server_makes_them(server_dsn: str) -> None:
    """A query without end gives its first rows at once, holds few of them, and ends with whoever wanted them."""
    # In the list of what is selected, or Postgres would make all of it first.
    sql = "SELECT generate_series(1, 1000000001)::text AS appointment_id, 7 AS room_id"
    source = source_from(Asked(query=sql), settings(database={"dsn": server_dsn}))
    async with asyncio.timeout(20), contextlib.aclosing(source.batches()) as batches:
        async for batch in batches:
            assert len(batch.rows) == BATCH_ROWS
            if batch.read == 3 * BATCH_ROWS:
                break
    assert batch.rows[-1].line == 3 * BATCH_ROWS
    async with _connected(server_dsn) as conn:
        await eventually(lambda: _ended(conn, "1000000001"), what="the query has ended")


async def test_a_query_that_takes_long_can_be_given_up(server_dsn: str) -> None:
    """Before its first row, too; the server is told, and does not work on for nobody."""
    sql = "SELECT pg_sleep(1003)::text AS appointment_id, 7 AS room_id"

    async def read() -> None:
        await asked(server_dsn, sql)

    async with _connected(server_dsn) as conn:
        reading = asyncio.create_task(read())

        async def begun() -> bool:
            return not await _ended(conn, "pg_sleep(1003)")

        await eventually(begun, what="it has begun")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(reading, 10)
        await eventually(lambda: _ended(conn, "pg_sleep(1003)"), what="the server has given up")


async def test_the_plan_is_the_users_own(server_dsn: str) -> None:
    """None of the settings that a worker's statements need, in a transaction that nobody's impatience ends."""
    impatient = server_dsn + ("&" if "?" in server_dsn else "?") + "idle_in_transaction_session_timeout=60000"
    read = await asked(
        impatient,
        """SELECT name AS appointment_id, setting AS note FROM pg_settings WHERE name IN
           ('enable_seqscan', 'plan_cache_mode', 'transaction_read_only', 'idle_in_transaction_session_timeout')""",
    )
    assert {name: changes["note"] for name, changes in read.said} == {
        "enable_seqscan": "on",
        "plan_cache_mode": "auto",
        "transaction_read_only": "on",
        "idle_in_transaction_session_timeout": "0",
    }


@pytest.fixture
def bouncer(server_dsn: str) -> Iterator[PgBouncer]:
    """With one server connection: what one client leaves behind there, the next one meets."""
    with pgbouncer(server_dsn, default_pool_size="1") as running:
        yield running


async def test_through_a_pgbouncer(server_dsn: str, bouncer: PgBouncer) -> None:
    """Where transactions are pooled: one after the other, whatever prepared statements another process left there, and
    with types that asyncpg has to look up."""
    through = bouncer.dsn(server_dsn)
    # As another process of ours would call them, whose count is as far as that of this one.
    taken = range(asyncpg.connection._uid, asyncpg.connection._uid + 100)
    async with _connected(through) as conn:
        for number in taken:
            await conn.execute(f"PREPARE __asyncpg_stmt_{number:x}__ AS SELECT 1")
    sql = f"""SELECT n AS appointment_id, 7 AS room_id, ARRAY[1] AS resource_ids, NULL::xml AS note
              FROM generate_series(1, {2 * BATCH_ROWS + 1}) AS n"""
    configured = settings(database={"dsn": through, "pgbouncer": True})
    reads = await asyncio.gather(*(found(Asked(query=sql), configured) for _ in range(3)))
    assert [len(read.rows) for read in reads] == [2 * BATCH_ROWS + 1] * 3


async def test_rejects_are_mended_and_given_back(server_dsn: str, tmp_path: Path) -> None:
    """As JSON Lines, whatever the types were."""
    sql = """SELECT 'app_' || n AS appointment_id, date '2024-01-01' + n AS starts_at, n AS room_id
             FROM generate_series(1, 2) AS n"""
    source = source_from(Asked(query=sql), settings(database={"dsn": server_dsn}))
    rejects = Rejects(source, name="query", path=tmp_path / "rejects.jsonl")
    async for batch in source.batches():
        rejects.add(batch.rejects)
    path = rejects.keep()
    assert path
    mended = path.read_bytes().replace(b'-02"', b'-02T10:00:00Z"').replace(b'-03"', b'-03T10:00:00Z"')
    assert (await found_in(path, mended)).said == [
        (f"app_{n}", {"room_id": n, "starts_at": f"2024-01-0{n + 1}T10:00:00Z"}) for n in (1, 2)
    ]
