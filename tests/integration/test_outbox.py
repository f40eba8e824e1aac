"""What a writer may do, and what the outbox makes of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.claims import registered, the_claim
from tests.support.database import Database
from tests.support.waiting import eventually

ONE = "INSERT INTO caspen_sync.outbox (appointment_id, changes) VALUES ($1, '{\"note\": null}') RETURNING id"


async def arrivals(database: Database) -> int:
    count = await database.value("SELECT count(*) FROM caspen_sync.arrival")
    assert isinstance(count, int)
    return count


# --- Rows --------------------------------------------------------------------------------------------------------


async def test_the_documented_insert_works(database: Database) -> None:
    """The two columns of the documentation are enough; everything else has its default."""
    await database.pool.execute(
        "INSERT INTO caspen_sync.outbox (appointment_id, changes) VALUES ('app_01', '{\"note\": null, \"room_id\": 7}')"
    )
    (row,) = await database.rows("SELECT * FROM caspen_sync.outbox")
    assert (row["account"], row["lane"], row["state"], row["attempts"]) == ("default", "live", "pending", 0)
    assert (row["source"], row["last_error"], row["finished_at"]) == (None, None, None)
    assert await arrivals(database) == 1


NONSENSE: list[tuple[str, str | None]] = [
    *(("changes", text) for text in ("{}", "[]", '["note"]', "null", '"note"', "7", None)),
    *(("appointment_id", text) for text in ("", None)),
    *(("account", text) for text in ("", None)),
    *(("lane", text) for text in ("Live", "", None)),
    ("state", "done"),
]


async def test_nonsense_is_refused(database: Database) -> None:
    """The writer is told at once, and nothing arrives: an empty object, no object, empty ids, an unknown lane."""
    for column, value in NONSENSE:
        row = {
            "account": "default",
            "appointment_id": "app_1",
            "changes": '{"note": null}',
            "lane": "live",
            column: value,
        }
        columns = ", ".join(row)
        places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        insert = f"INSERT INTO caspen_sync.outbox ({columns}) VALUES ({places})"
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=column):
            await database.pool.execute(insert, *row.values())
    assert (await database.states(), await arrivals(database)) == ({}, 0)


async def test_the_writer_does_not_choose_the_id(database: Database) -> None:
    """An id that the writer gives is overridden by the next in order."""
    first = await database.write("app_1", {"note": "a"})
    for given in ("1", "999999", "-5", "NULL", "DEFAULT"):
        drawn = await database.value(
            "INSERT INTO caspen_sync.outbox (id, appointment_id, changes) "
            f"VALUES ({given}, 'app_1', '{{\"note\": null}}') RETURNING id"
        )
        assert drawn == (first := first + 1)


async def test_absent_null_and_order_survive(database: Database) -> None:
    """What the worker reads is what was written: nulls, nested values, large integers, unusual text."""
    store = await registered(database)
    written: list[dict[str, Any]] = [
        {"note": None},
        {"room_id": None, "note": "é\u2028\U0001f600 \\ \" '"},
        {"resource_ids": [], "room_id": 2**63 - 1},
        {"confirmed": False, "unknown": {"a": [None, 1.5]}},
    ]
    for changes in written:
        await database.write("app_1", changes)
    assert [change.changes for change in (await the_claim(store)).changes] == written


async def test_unusual_ids_are_kept(database: Database) -> None:
    """The appointment's id is any text, and compares by its bytes."""
    store = await registered(database)
    strange = ["a", "A", "ä", "a ", " a", "a/b?c=d#e", "a'b\"c", "日本", "0", "x" * 500]
    for appointment_id in strange:
        await database.write(appointment_id, {"note": None})
    await store.take_in(["default"])
    claims = await store.claim({"default": 100}, timeout_s=30, lease_s=60, max_changes=10)
    assert sorted(one.appointment_id for one in claims) == sorted(strange)


async def test_rows_that_are_not_pending_do_not_arrive(database: Database) -> None:
    """An import of finished rows wakes nobody."""
    await database.pool.execute(
        "INSERT INTO caspen_sync.outbox (appointment_id, changes, state) VALUES ('app_1', '{\"note\": null}', 'synced')"
    )
    assert await arrivals(database) == 0


async def test_a_rollback_leaves_nothing(database: Database) -> None:
    """What was not committed does not arrive."""
    async with database.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await database.write("app_1", {"note": "a"}, conn=conn)
        await transaction.rollback()
    assert (await database.states(), await arrivals(database)) == ({}, 0)


@pytest.mark.parametrize("text", [True, False])
async def test_copy_works(database: Database, text: bool) -> None:
    """COPY is an INSERT: ids are drawn, changes arrive."""
    columns = ["account", "appointment_id", "changes", "lane"]
    async with database.pool.acquire() as conn:
        if text:
            lines = "".join(f'default\tapp_{n % 7}\t{{"note": null}}\tbackfill\n' for n in range(500))
            await conn.execute("SET client_encoding = 'UTF8'")
            await conn.copy_to_table("outbox", schema_name="caspen_sync", columns=columns, source=_bytes(lines))
        else:
            records = [("default", f"app_{n % 7}", json.dumps({"note": None}), "backfill") for n in range(500)]
            await conn.copy_records_to_table("outbox", schema_name="caspen_sync", columns=columns, records=records)
    assert await database.value("SELECT count(DISTINCT id) FROM caspen_sync.outbox") == 500
    assert await arrivals(database) == 500
    assert await (await registered(database)).take_in(["default"]) == {"default": 500}


async def _bytes(text: str) -> Any:
    yield text.encode()


async def test_a_bulk_insert_needs_no_settings(database: Database) -> None:
    """100,000 appointments in one INSERT … SELECT fit into Postgres's default settings, in which the table of locks in
    shared memory has room for far fewer."""
    shared = await database.value(
        "SELECT current_setting('max_locks_per_transaction')::int "
        "* (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)"
    )
    assert shared < 100_000
    async with database.pool.acquire() as conn:
        await conn.execute(
            "INSERT INTO caspen_sync.outbox (appointment_id, changes, lane) "
            "SELECT 'app_' || n, '{\"note\": null}', 'backfill' FROM generate_series(1, 100000) n",
            timeout=120,
        )
    assert await arrivals(database) == 100_000


# --- Isolation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_strict_writers_work_on_known_appointments(database: Database, isolation: Any) -> None:
    """A REPEATABLE READ or SERIALIZABLE writer gets its change in, also where the appointment was written by others
    since its snapshot was taken, and twice in one transaction."""
    await database.write("app_1", {"note": "known"})
    async with database.pool.acquire() as conn:
        async with conn.transaction(isolation=isolation):
            await conn.fetchval("SELECT count(*) FROM caspen_sync.outbox")
            others = await database.write("app_1", {"note": "meanwhile"})
            ids = [await database.write("app_1", {"note": "strict"}, conn=conn) for _ in range(2)]
        assert others < ids[0] < ids[1]
    assert await database.states() == {"pending": 4}


# --- NOTIFY ------------------------------------------------------------------------------------------------------


async def notified(database: Database, write: Any) -> list[str]:
    """What a listener was told by what `write` did; a notification of our own marks the end."""
    heard: list[str] = []
    listener = await asyncpg.connect(database.dsn)
    try:
        await listener.add_listener("caspen_sync", lambda *event: heard.append(event[3]))
        writer = await asyncpg.connect(database.dsn)
        try:
            await write(writer)
            await writer.execute("SELECT pg_notify('caspen_sync', 'the end')")
        finally:
            await writer.close()
        await eventually(lambda: "the end" in heard, what="the last notification")
    finally:
        await listener.close()
    return heard[:-1]


async def notifications(database: Database, write: Any) -> int:
    """How often a listener was woken by what `write` did, all of it in the account `default`."""
    heard = await notified(database, write)
    assert set(heard) <= {"default"}
    return len(heard)


async def test_one_notification_for_a_transaction(database: Database) -> None:
    """However many statements, rows and savepoints a transaction has, it wakes the workers once; a rollback never."""

    async def busy(conn: asyncpg.Connection) -> None:
        async with conn.transaction():
            for number in range(3):
                await conn.execute(ONE, f"app_{number}")
            await conn.execute(
                "INSERT INTO caspen_sync.outbox (appointment_id, changes) "
                "SELECT 'app_' || n, '{\"note\": null}' FROM generate_series(1, 100) n"
            )
            async with conn.transaction():
                await conn.execute(ONE, "app_savepoint")

    async def rolled_back(conn: asyncpg.Connection) -> None:
        await conn.execute("BEGIN")
        await conn.execute(ONE, "app_1")
        await conn.execute("ROLLBACK")

    async def twice(conn: asyncpg.Connection) -> None:
        await conn.execute(ONE, "app_1")
        await conn.execute(ONE, "app_1")

    assert await notifications(database, busy) == 1
    assert await notifications(database, rolled_back) == 0
    assert await notifications(database, twice) == 2


async def test_a_notification_names_its_account(database: Database) -> None:
    """Once for each account of a transaction. One whose name no notification can hold wakes all."""

    async def write(conn: asyncpg.Connection) -> None:
        async with conn.transaction():
            for account in ("north", "south", "north", "x" * 8000):
                await conn.execute(
                    "INSERT INTO caspen_sync.outbox (account, appointment_id, changes) "
                    "VALUES ($1, 'app_1', '{\"note\": null}')",
                    account,
                )

    assert sorted(await notified(database, write)) == ["", "north", "south"]


async def test_notify_can_be_switched_off(database: Database) -> None:
    """For a session, a transaction or a database; the changes arrive all the same."""

    async def session(conn: asyncpg.Connection) -> None:
        await conn.execute("SET caspen_sync.notify = 'off'")
        await conn.execute(ONE, "app_1")

    async def transaction(conn: asyncpg.Connection) -> None:
        async with conn.transaction():
            await conn.execute("SET LOCAL caspen_sync.notify = 'off'")
            await conn.execute(ONE, "app_2")
        await conn.execute(ONE, "app_3")

    async def plain(conn: asyncpg.Connection) -> None:
        await conn.execute(ONE, "app_4")

    async def on_again(conn: asyncpg.Connection) -> None:
        await conn.execute("SET caspen_sync.notify = 'on'")
        await conn.execute(ONE, "app_5")

    assert await notifications(database, session) == 0
    assert await notifications(database, transaction) == 1
    name = await database.value("SELECT current_database()")
    await database.pool.execute(f"ALTER DATABASE \"{name}\" SET caspen_sync.notify = 'off'")
    assert await notifications(database, plain) == 0
    assert await notifications(database, on_again) == 1
    assert await arrivals(database) == 5


async def test_concurrent_writers_all_arrive(database: Database) -> None:
    """Many writers at once: an arrival for each change, and a take-in takes each exactly once, from many sides."""

    async def write(writer: int) -> None:
        for number in range(25):
            await database.write(f"app_{(writer * number) % 13}", {"note": NOTE})

    store = await registered(database)
    await asyncio.gather(*(write(writer) for writer in range(8)))
    assert await arrivals(database) == 200
    taken = await asyncio.gather(*(store.take_in(["default"]) for _ in range(6)))
    assert sum(changes.get("default", 0) for changes in taken) == 200
    assert await arrivals(database) == 0
