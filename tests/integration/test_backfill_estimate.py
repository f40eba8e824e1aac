"""What the estimate of a backfill reads out of the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.database import Database
from worker.backfill.estimate import AccountEstimate, estimate, unmeasured
from worker.config import AccountSettings
from worker.sqlfiles import query
from worker.store import Store

SETTINGS = {"default": AccountSettings(), "north": AccountSettings(rate_limit=120)}


async def registered(database: Database) -> None:
    await Store(database.workers, worker="w").register(SETTINGS)


async def one(database: Database, requests: int = 1000, *, queued: bool = False) -> AccountEstimate:
    (found,) = (await estimate(database.workers, {"default": requests}, SETTINGS, queued=queued)).accounts
    return found


async def requested(database: Database, lane: str, count: int, over: timedelta, *, appointment: str = "app") -> None:
    """So many requests of a lane, each with a change of its own, evenly over the time until now; 0.25 s each."""
    await database.pool.execute(
        """
        WITH written AS (
            INSERT INTO caspen_sync.outbox (appointment_id, changes, lane, state, finished_at)
            SELECT $4 || i, '{"note": null}', $1, 'synced', now() FROM generate_series(1, $2) AS i
            RETURNING id, account, appointment_id
        )
        INSERT INTO caspen_sync.attempt
            (account, appointment_id, change_ids, started_at, duration_ms, http_status, outcome, worker)
        SELECT account, appointment_id, ARRAY[id], now() - $3::interval * ((nth - 0.5) / $2), 250, 200, 'synced', 'w'
        FROM (SELECT *, row_number() OVER (ORDER BY id) AS nth FROM written) AS numbered
        """,
        lane,
        count,
        over,
        appointment,
    )


async def test_an_account_that_nobody_has_used(database: Database) -> None:
    """It is as configured, and nothing is known of live changes and of answers; what has arrived goes first."""
    for number in range(3):
        await database.write(f"app_{number}", {"note": None}, lane="backfill")
    found = await one(database)
    (configured,) = unmeasured({"default": 1003}, SETTINGS).accounts
    assert (found.seconds, found.ahead) == (configured.seconds, 3)
    assert (found.measured, found.live_looked_back_s, found.answer_assumed) == (True, 0.0, True)


async def test_live_changes_are_measured(database: Database) -> None:
    """What the lane gets is less by what live changes took in the last 24 hours, not by what backfills did, nor by what
    was before that. A request that carried both counts."""
    await registered(database)
    await requested(database, "live", 2880, timedelta(hours=24))
    await requested(database, "backfill", 2880, timedelta(hours=24))
    await requested(database, "live", 2000, timedelta(hours=48), appointment="former")
    await database.pool.execute("UPDATE caspen_sync.attempt SET started_at = started_at - interval '1 day' "
                                "WHERE appointment_id LIKE 'former%'")  # fmt: skip
    found = await one(database)
    assert found.live_looked_back_s == pytest.approx(86_400, abs=1)
    assert found.answer_s == pytest.approx(0.25)
    assert found.live_per_window == pytest.approx(2 / 60 * 60.75, rel=0.01)
    assert found.per_minute == pytest.approx((54 - 2.025) / 60.75 * 60, rel=0.01)

    await database.pool.execute(
        """
        UPDATE caspen_sync.attempt t SET change_ids = t.change_ids || array_fill(live.id, ARRAY[1])
        FROM caspen_sync.outbox o, (SELECT min(id) AS id FROM caspen_sync.outbox WHERE lane = 'live') AS live
        WHERE o.id = t.change_ids[1] AND o.lane = 'backfill'
        """
    )
    assert (await one(database)).live_per_window == pytest.approx(4 / 60 * 60.75, rel=0.01)


async def test_a_service_that_is_young(database: Database) -> None:
    """Requests that reach back an hour are those of an hour, not of a day."""
    await registered(database)
    await requested(database, "live", 600, timedelta(hours=1))
    found = await one(database)
    assert found.live_looked_back_s == pytest.approx(3600, rel=0.01)
    assert found.live_per_window == pytest.approx(10.1, rel=0.02)


@pytest.mark.long
async def test_a_high_rate_is_sampled(database: Database) -> None:
    """Where a day has more requests than are looked at, a part of each five minutes stands for the rest; a cron job's
    bursts are not taken for a steady rate."""
    await registered(database)
    await database.pool.execute("UPDATE caspen_sync.account SET rate_limit = 1200")
    settings = {"default": AccountSettings(rate_limit=1200, concurrency=100)}
    await requested(database, "live", 20_000, timedelta(hours=24))
    await database.pool.execute(
        "UPDATE caspen_sync.attempt SET started_at = date_bin('5 minutes', started_at, '2000-01-01')"
        " + random() * interval '1 minute'"
    )
    (found,) = (await estimate(database.workers, {"default": 1}, settings)).accounts
    assert found.live_per_window == pytest.approx(20_000 / 1440 * 60.75 / 60, rel=0.5)
    assert found.live_per_window > 0


async def test_what_goes_first(database: Database) -> None:
    """What is due, backing off or has arrived goes before a backfill; of one that is in the lane already, the others
    only."""
    await registered(database)
    for number in range(5):
        await database.write(f"app_{number}", {"note": None}, lane="backfill")
    await database.write("app_live", {"note": None})
    store = Store(database.workers, worker="w")
    await store.take_in(["default"])
    await database.pool.execute(
        "UPDATE caspen_sync.queue SET due_at = now() + interval '1 hour' WHERE appointment_id = 'app_4'"
    )
    await database.write("app_late", {"note": None}, lane="backfill")
    assert (await one(database)).ahead == 5 + 1 + 1
    assert (await one(database, 5, queued=True)).ahead == 2
    assert (await one(database, 3, queued=True)).ahead == 4


async def test_what_is_not_taken_in_yet(database: Database) -> None:
    """Is a request for each appointment: once, however many changes it has, and not where that is in the queue."""
    await registered(database)
    store = Store(database.workers, worker="w")
    await database.write("app_0", {"note": None}, lane="backfill")
    await store.take_in(["default"])
    for number in (0, 1, 1, 2):
        await database.write(f"app_{number}", {"note": None}, lane="backfill")
    assert (await one(database)).ahead == 3
    assert (await one(database, 3, queued=True)).ahead == 0


async def test_an_account_that_is_paused_by_hand(database: Database) -> None:
    """Is never done, until a person says so."""
    await registered(database)
    async with database.pool.acquire() as conn:
        await conn.fetchval(query("pause_by_hand"), "default", "ann@desk", "audit")
    found = await one(database, 5)
    assert (found.seconds, found.pause_kind) == (None, "manual")


async def test_held_back_slots_and_the_limit_that_was_told(database: Database) -> None:
    """Slots that somebody else uses do not count, and of two limits the lower one does."""
    await registered(database)
    await database.pool.execute(
        "UPDATE caspen_sync.rate_slot SET free_at = now() + interval '90 s', held_until = now() + interval '90 s' "
        "WHERE account = 'default' AND slot <= 10"
    )
    found = await one(database)
    assert (found.held_back, found.per_minute) == (10, pytest.approx(44 / 61 * 60))
    await database.pool.execute("UPDATE caspen_sync.account SET told_limit = 30")
    found = await one(database)
    assert (found.budget_limit, found.reserve, found.per_minute) == (30, 3, pytest.approx(17 / 61 * 60))


async def test_slots_that_cool_down(database: Database) -> None:
    """The first requests go when the slots behind the reserve are free, and a slot on the wire rests no longer than a
    round."""
    await registered(database)
    await database.pool.execute(
        "UPDATE caspen_sync.rate_slot SET free_at = now() + make_interval(secs => slot) WHERE account = 'default'"
    )
    first = (await one(database, 1)).seconds
    assert first == pytest.approx(7.5, abs=0.5)  # six are the reserve's
    await database.pool.execute("UPDATE caspen_sync.rate_slot SET free_at = now() + interval '120 s'")
    assert (await one(database, 1)).seconds == pytest.approx(61.5)


@pytest.mark.parametrize(("kind", "until", "for_s"), [("down", timedelta(minutes=2), 120), ("throttled", -1, None)])
async def test_pauses(database: Database, kind: str, until: timedelta | int | None, for_s: float | None) -> None:
    """A pause is told and not counted; a throttle that is over is none."""
    await registered(database)
    before = (await one(database)).seconds
    ends_at = datetime.now(UTC) + (until if isinstance(until, timedelta) else timedelta(seconds=until or 0))
    await database.pool.execute(
        "UPDATE caspen_sync.account SET pause_kind = $1, pause_reason = 'why', paused_until = $2, paused_at = now()",
        kind,
        datetime.max.replace(tzinfo=UTC) if until is None else ends_at,
    )
    found = await one(database)
    assert found.seconds == pytest.approx(before, abs=0.1)
    assert found.pause_kind == (None if kind == "throttled" else kind)
    assert found.paused_for_s == (None if for_s is None else pytest.approx(for_s, abs=5))


async def test_each_account_has_its_own(database: Database) -> None:
    """Accounts do not share budget, backlog or history, and only those that are asked for are told of."""
    await registered(database)
    await requested(database, "live", 600, timedelta(hours=1))
    found = await estimate(database.workers, {"default": 10, "north": 10}, SETTINGS)
    assert [one.account for one in found.accounts] == ["default", "north"]
    assert found.accounts[0].live_per_window > found.accounts[1].live_per_window == 0
    assert found.accounts[1].budget_limit == 120
