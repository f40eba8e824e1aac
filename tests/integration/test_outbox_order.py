"""For one appointment, id order is commit order, whatever transactions do; and nobody else waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.claims import accepted, blocked, claim, ids, registered, settle
from tests.support.database import Database


@contextlib.asynccontextmanager
async def writers(database: Database, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
    """Connections of applications; a wait for a lock that lasts for long fails."""
    connections = [await asyncpg.connect(database.dsn, server_settings={"lock_timeout": "10s"}) for _ in range(count)]
    try:
        yield connections
    finally:
        for conn in connections:
            conn.terminate()


async def other_writes(database: Database, conn: asyncpg.Connection) -> asyncio.Task[int]:
    """A write on app_1 that has to wait."""
    task = asyncio.create_task(database.write("app_1", {"note": "other"}, conn=conn))
    await blocked(database, conn.get_server_pid())
    return task


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_the_second_writer_waits_for_the_first(database: Database, known: bool, end: str) -> None:
    """Two transactions on one appointment cannot cross: the second INSERT waits until the first one's transaction ends,
    and draws its id then. So whoever inserts first also commits first."""
    if known:
        await database.write("app_1", {"note": "known"})
    async with writers(database, 2) as (first, second):
        await first.execute("BEGIN")
        one = await database.write("app_1", {"note": "first"}, conn=first)
        await second.execute("BEGIN")
        waiting = await other_writes(database, second)
        again = await database.write("app_1", {"note": "first again"}, conn=first)
        await first.execute(end)
        two = await waiting
        await second.execute("COMMIT")
    assert one < again < two
    rows = await database.rows("SELECT id FROM caspen_sync.outbox WHERE id >= $1 ORDER BY id", one)
    assert [row["id"] for row in rows] == ([one, again, two] if end == "COMMIT" else [two])


@pytest.mark.parametrize("known", [False, True])
async def test_a_savepoint_that_is_rolled_back_lets_go(database: Database, known: bool) -> None:
    """After ROLLBACK TO the other writer may go first; the first one's next change waits, and gets the later id."""
    if known:
        await database.write("app_1", {"note": "known"})
    async with writers(database, 2) as (first, second):
        await first.execute("BEGIN; SAVEPOINT here")
        await database.write("app_1", {"note": "undone"}, conn=first)
        await second.execute("BEGIN")
        waiting = await other_writes(database, second)
        await first.execute("ROLLBACK TO here")
        other = await waiting
        mine = asyncio.create_task(database.write("app_1", {"note": "again"}, conn=first))
        await blocked(database, first.get_server_pid())
        await second.execute("COMMIT")
        assert other < await mine
        await first.execute("COMMIT")
    rows = await database.rows(
        "SELECT changes->>'note' AS note FROM caspen_sync.outbox WHERE id >= $1 ORDER BY id", other
    )
    assert [row["note"] for row in rows] == ["other", "again"]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("undo", ["ROLLBACK TO here", "RELEASE here"])
async def test_a_savepoint_does_not_let_go_of_an_earlier_lock(database: Database, known: bool, undo: str) -> None:
    """A transaction that wrote before its savepoint keeps the other writer waiting, whatever the savepoint's end."""
    if known:
        await database.write("app_1", {"note": "known"})
    async with writers(database, 2) as (first, second):
        await first.execute("BEGIN")
        await database.write("app_1", {"note": "first"}, conn=first)
        await first.execute("SAVEPOINT here")
        await database.write("app_1", {"note": "in the savepoint"}, conn=first)
        waiting = await other_writes(database, second)
        await first.execute(undo)
        await blocked(database, second.get_server_pid())
        last = await database.write("app_1", {"note": "last"}, conn=first)
        assert not waiting.done()
        await first.execute("COMMIT")
        assert last < await waiting


async def test_writers_of_different_appointments_never_wait(database: Database) -> None:
    """Open transactions on other appointments, known and new, and on the same id of another account hold up nobody."""
    await database.write("app_1", {"note": "known"})
    await database.write("app_2", {"note": "known"})
    async with writers(database, 4) as connections:
        for conn in connections:
            await conn.execute("SET lock_timeout = '1s'; BEGIN")
        drawn = [
            await database.write("app_1", {"note": NOTE}, conn=connections[0]),
            await database.write("app_2", {"note": NOTE}, conn=connections[1]),
            await database.write("app_new", {"note": NOTE}, conn=connections[2]),
            await database.write("app_1", {"note": NOTE}, conn=connections[3], account="other"),
        ]
        for conn in reversed(connections):
            await conn.execute("COMMIT")
    assert drawn == sorted(set(drawn))
    assert await database.states() == {"pending": 6}


@pytest.mark.parametrize("taken_in", [False, True])
async def test_an_open_transaction_does_not_hold_up_the_worker(database: Database, taken_in: bool) -> None:
    """While a writer's transaction on an appointment is open, that appointment's earlier change is taken in, claimed
    and settled, and becomes synced; after the commit the new change is taken in and goes out."""
    impatient = {"lock_timeout": "2s", "statement_timeout": "5s"}
    store = await registered(database)
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=2, server_settings=impatient) as pool:
        worker = type(store)(pool, worker="impatient")
        earlier = await database.write("app_1", {"note": "earlier"})
        if taken_in:
            assert await worker.take_in(["default"]) == {"default": 1}
        async with writers(database, 1) as (writer,), asyncio.timeout(15):
            await writer.execute("BEGIN")
            later = await database.write("app_1", {"note": "later"}, conn=writer)
            await writer.execute("SAVEPOINT here")
            last = await database.write("app_1", {"note": "last"}, conn=writer)
            assert await worker.take_in(["default"]) == ({} if taken_in else {"default": 1})
            (held,) = await claim(worker)
            assert ids(held) == [earlier]
            assert await settle(worker, accepted(held)) == []
            assert await database.states() == {"synced": 1}
            assert await database.value("SELECT last_change_id FROM caspen_sync.appointment") == earlier
            assert await worker.take_in(["default"]) == {}
            assert await claim(worker) == []
            await writer.execute("COMMIT")
        assert await worker.take_in(["default"]) == {"default": 2}
        (held,) = await claim(worker)
        assert ids(held) == [later, last]


async def test_a_commit_between_claim_and_settle_is_not_lost(database: Database) -> None:
    """A transaction that was open when the appointment was claimed, and commits before or after the settle, makes it
    due again."""
    store = await registered(database)
    for end_first in (True, False):
        await database.write("app_1", {"note": "earlier"})
        await store.take_in(["default"])
        async with writers(database, 1) as (writer,):
            await writer.execute("BEGIN")
            later = await database.write("app_1", {"note": "later"}, conn=writer)
            (held,) = await claim(store)
            if end_first:
                await writer.execute("COMMIT")
            assert await settle(store, accepted(held)) == []
            if not end_first:
                await writer.execute("COMMIT")
        await store.take_in(["default"])
        (again,) = await claim(store)
        assert ids(again) == [later]
        assert await settle(store, accepted(again)) == []
    assert await database.states() == {"synced": 4}


@pytest.mark.parametrize("seed", range(3))
async def test_no_reader_ever_sees_a_newer_change_first(database: Database, seed: int) -> None:
    """Many writers with transactions, rollbacks and savepoints at random: whenever somebody looks, no change has become
    visible that is older than one of the same appointment that was visible before."""
    chance = random.Random(seed)
    appointments = [f"app_{number}" for number in range(3)]
    busy = 6

    async def write(conn: asyncpg.Connection) -> None:
        nonlocal busy
        for _ in range(40):
            await conn.execute("BEGIN")
            # In key order, as an application must that locks several rows: the other way is a deadlock.
            for appointment_id in sorted(chance.sample(appointments, chance.randint(1, 2))):
                if chance.random() < 0.3:
                    await conn.execute("SAVEPOINT here")
                    await database.write(appointment_id, {"note": NOTE}, conn=conn)
                    await conn.execute(chance.choice(["RELEASE here", "ROLLBACK TO here"]))
                if chance.random() < 0.9:
                    await database.write(appointment_id, {"note": NOTE}, conn=conn)
                await asyncio.sleep(chance.random() * 0.003)
            await conn.execute(chance.choices(["COMMIT", "ROLLBACK"], [4, 1])[0])
        busy -= 1

    async def watch(conn: asyncpg.Connection) -> int:
        newest: dict[str, int] = defaultdict(int)
        known: dict[str, set[int]] = defaultdict(set)
        looks = 0
        while busy:
            seen: dict[str, set[int]] = defaultdict(set)
            for row in await conn.fetch("SELECT appointment_id, id FROM caspen_sync.outbox"):
                seen[row["appointment_id"]].add(row["id"])
            for appointment_id, visible in seen.items():
                assert min(visible - known[appointment_id], default=newest[appointment_id] + 1) > newest[appointment_id]
                known[appointment_id], newest[appointment_id] = visible, max(visible)
            looks += 1
        return looks

    async with writers(database, 8) as connections, asyncio.timeout(60):
        looks = await asyncio.gather(*map(write, connections[:6]), *map(watch, connections[6:]))
    assert all(count > 10 for count in looks[6:] if count is not None)
