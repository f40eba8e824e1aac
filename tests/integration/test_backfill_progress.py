"""How far a backfill is: counted now and then, and right between the counts."""

from __future__ import annotations

import pytest

from tests.support.backfilling import backfill
from tests.support.database import Database
from worker import clock
from worker.backfill.progress import COUNT_KEPT_TIMES, Gauge
from worker.config import AccountSettings, Settings
from worker.database import understood
from worker.errors import DatabaseUnreachable
from worker.store import Store


class Time:
    """The process's clock, which stands still between two moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    moved = Time()
    monkeypatch.setattr(clock, "now", moved.now)
    return moved


async def gauge_of(database: Database, *, lines: int, name: str = "may.csv") -> Gauge:
    await backfill(database, name, lines=lines)
    settings = Settings(accounts={"default": AccountSettings(rate_limit=60, rate_window_s=60.0, rate_guard_s=0.0)})
    store = Store(database.workers, worker="w")
    await store.register(settings.accounts)
    while await store.take_in(["default"]):
        pass
    return Gauge(database.workers, store, settings, name)


async def answered(
    database: Database, first: int, last: int, *, state: str = "synced", ago_s: float = 0.0, took_s: float = 0.1
) -> None:
    """As if another process had been answered for the changes of these appointments so long ago."""
    await database.pool.execute(
        "WITH done AS (UPDATE caspen_sync.outbox SET state = $3, finished_at = clock_timestamp() - $4 * interval '1 s'"
        "  WHERE appointment_id IN (SELECT 'app_' || n FROM generate_series($1::int, $2::int) AS n)"
        "  RETURNING id, appointment_id)"
        " INSERT INTO caspen_sync.attempt"
        " (account, appointment_id, change_ids, started_at, duration_ms, outcome, worker)"
        " SELECT 'default', appointment_id, ARRAY[id], clock_timestamp() - ($4 + $5) * interval '1 s', 100, $3, 'x'"
        " FROM done",
        first,
        last,
        state,
        ago_s,
        took_s,
    )


@pytest.mark.usefixtures("time")
async def test_between_two_counts(database: Database) -> None:
    """What others settle and park is seen at once, though nothing is counted; other backfills and live changes are not
    taken for it."""
    gauge = await gauge_of(database, lines=50)
    await backfill(database, "june.csv", lines=10, first=100)
    assert ((await gauge.look()).pending, (await gauge.look()).changes) == (50, 50)
    await answered(database, 0, 19)
    await answered(database, 20, 21, state="parked", took_s=30)  # begun before the count
    await answered(database, 100, 104)
    await database.write("app_200", {"note": "today's"})
    await answered(database, 200, 200)
    seen = await gauge.look()
    assert (seen.pending, seen.parked, seen.done) == (28, 2, 22)


async def test_a_count_is_the_truth(database: Database, time: Time) -> None:
    """What changed without a request, as when a person discards, is known by the next count."""
    gauge = await gauge_of(database, lines=10)
    assert (await gauge.look()).pending == 10
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'discarded', finished_at = now() WHERE id <= 4")
    assert (await gauge.look()).pending == 10
    time.at += 2
    assert (await gauge.look()).pending == 6


@pytest.mark.usefixtures("time")
async def test_the_end_is_counted(database: Database) -> None:
    """That nothing is pending is never concluded from requests alone: it is counted then, at once."""
    gauge = await gauge_of(database, lines=3)
    await gauge.look()
    await answered(database, 0, 2)
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'pending' WHERE appointment_id = 'app_1'")
    assert (await gauge.look()).pending == 1
    await answered(database, 1, 1)
    assert (await gauge.look()).pending == 0
    assert sum(one.pending for one in gauge.found) == 0


async def test_the_rate_is_that_of_whole_windows(database: Database, time: Time) -> None:
    """Nothing before a window is over; then what went out in the last of them, though the next burst has just begun."""
    gauge = await gauge_of(database, lines=200)
    await answered(database, 0, 53, ago_s=61)
    first = await gauge.look()
    assert (first.requests_a_minute, first.done_in_s) == (None, None)
    await answered(database, 54, 107)
    await database.write("app_500", {"note": "today's"})
    await answered(database, 500, 500)
    time.at += 61
    later = await gauge.look()
    assert (later.requests_a_minute, later.changes_a_minute) == (54, 54)
    assert later.done_in_s == pytest.approx(200 / 54 * 60, abs=1)


@pytest.mark.usefixtures("time")
async def test_backing_off(database: Database) -> None:
    """What rests is told apart from what is due and from what is on the wire, due again when its lease ends."""
    gauge = await gauge_of(database, lines=1)
    assert not (await gauge.look()).backing_off
    await database.pool.execute(
        "UPDATE caspen_sync.queue SET due_at = now() + interval '60 s', leased_until = now() + interval '60 s'"
    )
    assert not (await gauge.look()).backing_off
    await database.pool.execute("UPDATE caspen_sync.queue SET leased_until = NULL")
    assert (await gauge.look()).backing_off


@pytest.mark.usefixtures("time")
async def test_the_budget(database: Database) -> None:
    """Slots in use, and those kept for live changes."""
    gauge = await gauge_of(database, lines=1)
    await database.pool.execute("UPDATE caspen_sync.rate_slot SET free_at = now() + interval '1 min' WHERE slot <= 54")
    (account,) = (await gauge.look()).accounts
    assert (account.budget, account.used, account.reserve, account.held_back) == (60, 54, 6, 0)


async def test_a_count_that_fails(database: Database, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told on from the one before, and the next one comes only after thirty times what the failed one took."""
    gauge = await gauge_of(database, lines=5)
    await gauge.look()
    counts = []

    async def too_long(*_: object) -> None:
        counts.append(time.at)
        time.at += 1.5
        with understood():
            raise TimeoutError

    monkeypatch.setattr("worker.backfill.progress.backfills", too_long)
    await answered(database, 0, 1)
    time.at += 2
    assert (await gauge.look()).pending == 3
    time.at += COUNT_KEPT_TIMES * 1.5 - 5
    assert (await gauge.look()).pending == 3
    assert len(counts) == 1
    await answered(database, 2, 4)
    with pytest.raises(DatabaseUnreachable):
        await gauge.look()
