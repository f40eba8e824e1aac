"""The shared reading: many ask how it is, and the database is asked seldom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.claims import registered
from tests.support.database import Database
from tests.support.waiting import eventually
from worker import reading as module
from worker.errors import DatabaseUnreachable, SchemaMissing
from worker.reading import SharedReading
from worker.status import Status, status


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s


@contextlib.asynccontextmanager
async def held(database: Database) -> AsyncIterator[None]:
    """As long as this lasts, no reading comes to its end."""
    async with database.pool.acquire() as conn, conn.transaction():
        await conn.execute("LOCK TABLE caspen_sync.worker IN ACCESS EXCLUSIVE MODE")
        yield


async def one_reads(database: Database) -> None:
    """Waits until the database is asked."""
    await eventually(lambda: readers(database), what="a reading waits")


async def readers(database: Database) -> int:
    """How many readings wait in the database."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return int(await database.value(sql))


def pending(found: Status) -> int:
    return sum(one.pending for one in found.accounts)


async def write(database: Database) -> None:
    await database.write("app_1", {"note": NOTE})


async def test_a_reading_is_kept(database: Database) -> None:
    """For a second in any case, and for as long as its asker allows; its ages go on meanwhile."""
    clock = Clock()
    reading = SharedReading(database.pool, status, now=clock.now)
    await registered(database)
    await write(database)
    first = await reading.get(0.0)
    assert (pending(first), first.age_s) == (1, 0.0)
    await write(database)
    clock.now_s += 0.9
    kept = await reading.get(0.0)
    assert (pending(kept), kept.age_s) == (1, pytest.approx(0.9))
    oldest_s, before_s = kept.accounts[0].oldest_s, first.accounts[0].oldest_s
    assert oldest_s is not None
    assert before_s is not None
    assert oldest_s - before_s == pytest.approx(0.9)
    clock.now_s += 20
    assert pending(await reading.get(30.0)) == 1
    assert pending(await reading.get(10.0)) == 2
    assert (await reading.get(10.0)).age_s == 0.0


@pytest.mark.parametrize(("took_s", "kept_s"), [(0.5, 25.0), (5.0, 60.0)])
async def test_what_takes_long_is_kept_long(database: Database, took_s: float, kept_s: float) -> None:
    """For fifty times what it took, a minute at the most: a large backlog costs no more than a small one. Nobody who
    allows more gets it older than that."""
    clock = Clock()
    reading = SharedReading(database.pool, status, now=clock.now)
    async with held(database):
        asked = asyncio.create_task(reading.get(0.0))
        await one_reads(database)
        clock.now_s += took_s
    assert (await asked).age_s == took_s
    clock.now_s += kept_s - took_s - 0.01
    assert (await reading.get(0.0)).age_s > took_s
    clock.now_s += 0.02
    assert (await reading.get(0.0 if kept_s < 60 else 1e9)).age_s == 0.0


async def test_who_asks_sparingly(database: Database) -> None:
    """What took long is not read again for so many times of that; who asks otherwise is not held to it."""
    clock = Clock()
    reading = SharedReading(database.pool, status, now=clock.now)
    async with held(database):
        asked = asyncio.create_task(reading.get(0.0))
        await one_reads(database)
        clock.now_s += 0.3
    await asked
    clock.now_s += 59.0
    assert (await reading.get(0.0, times=200)).age_s == pytest.approx(59.3)
    assert (await reading.get(0.0)).age_s == 0.0


async def test_one_that_takes_long_by_chance(database: Database) -> None:
    """What is read quickly, else, is read again as soon as before; when the next one takes long as well, it was no
    chance."""
    clock = Clock()
    reading = SharedReading(database.pool, status, usual_of=2, now=clock.now)
    await reading.get(0.0)
    for kept_s in (1.0, 25.0):
        clock.now_s += 5
        async with held(database):
            asked = asyncio.create_task(reading.get(0.0))
            await one_reads(database)
            clock.now_s += 0.5
        assert (await asked).age_s == 0.5
        clock.now_s += kept_s - 0.5 - 0.01
        assert (await reading.get(0.0)).age_s == pytest.approx(kept_s - 0.01)
    clock.now_s += 0.02
    assert (await reading.get(0.0)).age_s == 0.0


async def test_some_that_take_long_by_chance(database: Database) -> None:
    """Where a machine that is busy for a moment must not matter, the quickest of more than two in a row counts."""
    clock = Clock()
    reading = SharedReading(database.pool, status, usual_of=4, now=clock.now)
    await reading.get(0.0)
    for kept_s in (1.0, 1.0, 1.0, 25.0):
        clock.now_s += 2
        async with held(database):
            asked = asyncio.create_task(reading.get(0.0))
            await one_reads(database)
            clock.now_s += 0.5
        assert (await asked).age_s == 0.5
        clock.now_s += kept_s - 0.5 - 0.01
        assert (await reading.get(0.0)).age_s == pytest.approx(kept_s - 0.01)


async def test_all_who_come_meanwhile_share_one(database: Database) -> None:
    """Fifty askers are one reading over one connection; one of them who goes away takes nothing from the others."""
    reading = SharedReading(database.pool, status)
    async with held(database):
        asked = [asyncio.create_task(reading.get(0.0)) for _ in range(50)]
        await one_reads(database)
        asked[0].cancel()
        asked.append(asyncio.create_task(reading.get(0.0)))
        await asyncio.sleep(0.05)
        assert await readers(database) == 1
        assert database.pool.get_size() - database.pool.get_idle_size() <= 3  # the lock's, the reading's, this look's
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, Status) for result in results[1:])


async def test_a_fault_is_told_to_all_and_soon_forgotten(database: Database) -> None:
    """Each asker gets it, as an exception of its own. A second later the database is asked again, whatever age is
    allowed."""
    clock = Clock()
    reading = SharedReading(database.pool, status, now=clock.now)
    await registered(database)
    await reading.get(0.0)
    clock.now_s += 5
    await database.pool.execute("ALTER TABLE caspen_sync.queue RENAME TO queue_away")
    faults = await asyncio.gather(*(reading.get(0.0) for _ in range(3)), return_exceptions=True)
    assert [type(fault) for fault in faults] == [SchemaMissing] * 3
    assert len(set(map(id, faults))) == 3
    assert "run caspen-sync migrate" in str(faults[0])
    await database.pool.execute("ALTER TABLE caspen_sync.queue_away RENAME TO queue")
    clock.now_s += 0.9
    with pytest.raises(SchemaMissing):
        await reading.get(60.0)
    clock.now_s += 0.2
    assert (await reading.get(60.0)).age_s == 0.0


async def test_a_count_that_a_time_limit_ended(database: Database) -> None:
    """It has cost as much as one that came to its end, and is not begun anew each second."""
    clock = Clock()
    reading = SharedReading(database.pool, status, now=clock.now)
    async with held(database):
        asked = asyncio.create_task(reading.get(0.0))
        await one_reads(database)
        clock.now_s += 0.2
        await database.pool.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with pytest.raises(DatabaseUnreachable):
            await asked
    clock.now_s += 9.9
    with pytest.raises(DatabaseUnreachable):
        await reading.get(60.0)
    clock.now_s += 0.2
    assert (await reading.get(60.0)).age_s == 0.0


async def test_a_pool_without_a_free_connection(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for without an end, and the wait is not taken for what the reading costs."""
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.05)
    clock = Clock()
    async with asyncpg.create_pool(database.dsn, min_size=0, max_size=1) as pool:
        reading = SharedReading(pool, status, now=clock.now)
        async with pool.acquire():
            with pytest.raises(DatabaseUnreachable):
                await reading.get(0.0)
        monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 10)
        clock.now_s += 2
        async with pool.acquire():
            asked = asyncio.create_task(reading.get(0.0))
            await asyncio.sleep(0.05)
            clock.now_s += 5
        assert (await asked).age_s == 0.0
        clock.now_s += 1.5
        assert (await reading.get(0.0)).age_s == 0.0


async def test_what_the_first_readings_take_tells_little(database: Database) -> None:
    """A connection that reads catalogs and plans is slow, as is a service that begins: until there were some, they are
    made as if that had not been. Then the quickest of them tells."""
    clock = Clock()
    await registered(database)
    took = iter([0.2, 0.2, 0.1, 0.2, 0.2, 0.2])

    async def read(conn: asyncpg.Connection) -> Status:
        clock.now_s += next(took)
        return await status(conn)

    reading = SharedReading(database.pool, read, now=clock.now)
    for _ in range(4):
        await reading.get(0.0)
        clock.now_s += 1.1
    assert (await reading.get(0.0)).age_s == pytest.approx(0.2)
    clock.now_s += 4.7
    assert (await reading.get(0.0)).age_s == pytest.approx(4.9)
    clock.now_s += 0.2
    assert (await reading.get(0.0)).age_s == pytest.approx(0.2)


async def test_what_is_cheap_is_read_again_whoever_asks(database: Database) -> None:
    """On a busy machine it takes longer than it costs: who asks sparingly is held to the same as others."""
    clock = Clock()
    await registered(database)

    async def read(conn: asyncpg.Connection) -> Status:
        clock.now_s += 0.008
        return await status(conn)

    reading = SharedReading(database.pool, read, now=clock.now)
    for _ in range(8):
        assert (await reading.get(0.0, times=400)).age_s == pytest.approx(0.008)
        clock.now_s += 1.1
