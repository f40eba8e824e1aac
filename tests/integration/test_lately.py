"""What the page reads beside the counts: the last hour's requests, why changes are parked, one change, one appointment;
and budgets, pauses and workers without counting."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.support.canary import NOTE
from tests.support.claims import claim, limits, registered, settle, settlement, stopped, the_claim
from tests.support.database import Database
from tests.support.parking import BY, NO_ROOM, found, park, parked, synced
from worker import history
from worker.lately import MINUTES, REASONS, Lately, lately
from worker.parked import discard, of_reason
from worker.status import Glance, Status, glance, status


async def read(database: Database) -> Lately:
    async with database.pool.acquire() as conn:
        return await lately(conn)


async def seen(database: Database) -> Glance:
    async with database.pool.acquire() as conn:
        return await glance(conn)


async def counted(database: Database) -> Status:
    async with database.pool.acquire() as conn:
        return await status(conn)


async def this_minute(database: Database) -> datetime:
    """When it began."""
    began: datetime = await database.value("SELECT date_bin('1 minute', now(), timestamptz 'epoch')")
    return began


async def request(
    database: Database, at: datetime, outcome: str = "synced", *, changes: int = 1, account: str = "default"
) -> None:
    """One that was made then."""
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.attempt (account, appointment_id, change_ids, started_at, duration_ms, outcome, worker)
        VALUES ($1, 'app_1', $2, $3, 80, $4, 'w')
        """,
        account,
        list(range(changes)),
        at,
        outcome,
    )


# -- the last hour's requests ------------------------------------------------------------------------------------------


async def test_the_last_hour(database: Database) -> None:
    """Each minute, oldest first, those without a request too: how many requests came to what, how many changes they
    carried and when the last of them began, all accounts together; what is older than an hour is not in it."""
    for account in ("default", "north"):
        await registered(database, account=account)
    now = await this_minute(database)
    early, late = now - timedelta(minutes=58), now - timedelta(minutes=2)
    for second in (1, 3, 2):
        await request(database, late + timedelta(seconds=second))
    await request(database, late + timedelta(seconds=59), changes=2, account="north")
    for second in (9, 7):
        await request(database, late + timedelta(seconds=second), "retry")
    await request(database, early)
    await request(database, now - timedelta(minutes=60, seconds=1), "rejected")
    minutes = (await read(database)).minutes
    assert len(minutes) == MINUTES == 60
    ats = [minute.at for minute in minutes]
    assert ats == [ats[0] + timedelta(minutes=number) for number in range(60)]
    assert ats[-1] in (now, now + timedelta(minutes=1))
    by_minute = {minute.at: minute for minute in minutes if minute.requests}
    assert set(by_minute) == {early, late}
    assert by_minute[late].requests == {"synced": 4, "retry": 2}
    assert by_minute[late].changes == {"synced": 5, "retry": 2}
    assert by_minute[late].last_at == {
        "synced": late + timedelta(seconds=59),
        "retry": late + timedelta(seconds=9),
    }
    assert (minutes[30].requests, minutes[30].changes, minutes[30].last_at) == ({}, {}, {})


async def test_a_request_shows_at_once(database: Database) -> None:
    """The minute that has not ended is there."""
    await synced(database, "app_1", {"note": NOTE})
    assert sum(sum(minute.requests.values()) for minute in (await read(database)).minutes[-2:]) == 1


async def test_its_age(database: Database) -> None:
    """Says how long ago it was read; the rest is of that moment."""
    first = await read(database)
    assert first.age_s == 0.0
    assert first.later(3.0).later(4.0) == replace(first, age_s=7.0)


# -- why changes are parked --------------------------------------------------------------------------------------------


async def test_why_changes_are_parked(database: Database) -> None:
    """Each reason once, the one with the most changes first: how many, in how many accounts, since when and until when;
    what is not parked any more is not in it."""
    assert (await read(database)).reasons == ()
    rooms = [await parked(database, f"app_{number}", {"room_id": number}) for number in range(2)]
    rooms.append(await parked(database, "app_1", {"room_id": 1}, account="north"))
    other = await parked(database, "app_9", {"note": NOTE}, error="409 conflict")
    (given_up,) = await found(database, await parked(database, "app_8", {"note": NOTE}, error="gone"))
    async with database.pool.acquire() as conn:
        await discard(conn, [given_up], BY)
    first, second = (await read(database)).reasons
    assert (first.error, first.changes, first.accounts) == (NO_ROOM, 3, 2)
    times = [one.parked_at for one in await found(database, *rooms)]
    assert (first.first_at, first.last_at) == (min(times), max(times))
    (conflict,) = await found(database, other)
    assert (second.error, second.changes, second.accounts) == ("409 conflict", 1, 1)
    assert second.first_at == second.last_at == conflict.parked_at


async def test_odd_reasons(database: Database) -> None:
    """None that was kept, and one that is a document: each is a reason of its own, of which the page gets the begin;
    two that differ at their ends only are two."""
    long = "x" * 5000
    ids = {}
    for number, error in enumerate([None, f"{long}a", f"{long}b"]):
        ids[error] = await parked(database, f"app_{number}", {"note": NOTE}, error=error)  # type: ignore[arg-type]
    reasons = (await read(database)).reasons
    assert sorted(reason.error for reason in reasons) == ["", "x" * 1000, "x" * 1000]
    async with database.pool.acquire() as conn:
        by_digest = [await of_reason(conn, reason.digest, account=None, limit=10) for reason in reasons]
    assert sorted(by_digest) == [[one] for one in sorted(ids.values())]


async def test_many_reasons(database: Database) -> None:
    """The most frequent ones, and no more than an overview bears."""
    for number in range(REASONS + 2):
        for nth in range(2 if number > 1 else 1):
            await parked(database, f"app_{number}_{nth}", {"note": NOTE}, error=f"reason {number}")
    reasons = (await read(database)).reasons
    assert [reason.changes for reason in reasons] == [2] * REASONS


async def test_the_changes_of_a_reason(database: Database) -> None:
    """Their ids, oldest first, of one account or of all, above an id and up to a number of them; without a reason, all
    that are parked."""
    default = [await parked(database, f"app_{number}", {"note": NOTE}) for number in range(3)]
    north = [await parked(database, f"app_{number}", {"note": NOTE}, account="north") for number in range(2)]
    default.append(await parked(database, "app_4", {"note": NOTE}))
    other = await parked(database, "app_5", {"note": NOTE}, error="409 conflict")
    await database.write("app_6", {"note": NOTE})
    digest, conflict = (reason.digest for reason in (await read(database)).reasons)

    async with database.pool.acquire() as conn:

        async def ids(digest: str | None, *, account: str | None = None, after: int = 0, limit: int = 100) -> list[int]:
            return await of_reason(conn, digest, account=account, after=after, limit=limit)

        assert await ids(digest) == sorted(default + north)
        assert await ids(conflict) == [other]
        assert await ids(None) == sorted([*default, *north, other])
        assert await ids(digest, account="north") == north
        assert await ids(digest, account="north", limit=1) == north[:1]
        assert await ids(digest, after=default[1]) == sorted(one for one in default + north if one > default[1])
        assert await ids(digest, limit=4) == sorted(default + north)[:4]
        assert await ids("no such digest") == []
        assert await ids(digest, account="nobody") == []


# -- one change, one appointment ---------------------------------------------------------------------------------------


async def one_change(database: Database, change: int, account: str = "default") -> history.OneChange | None:
    async with database.pool.acquire() as conn:
        return await history.change(conn, account, change)


async def test_one_change(database: Database) -> None:
    """Whatever became of it, with the fields that it sets and those that newer changes have set since; nothing of what
    it says."""
    refused = await parked(database, "app_1", {"room_id": 7, "note": NOTE}, attempts=2)
    accepted = await synced(database, "app_1", {"room_id": 8})
    waits = await database.write("app_1", {"confirmed": True}, lane="backfill")
    one = await one_change(database, refused)
    assert one is not None
    assert (one.state, one.error, one.attempts, one.lane) == ("parked", NO_ROOM, 2, "live")
    assert (one.fields, one.superseded) == (("note", "room_id"), ("room_id",))
    assert one.finished_at is not None
    assert one.created_at < one.finished_at
    assert NOTE not in repr(one)
    two, three = await one_change(database, accepted), await one_change(database, waits)
    assert two is not None
    assert (two.state, two.fields, two.superseded) == ("synced", ("room_id",), ())
    assert three is not None
    assert (three.state, three.lane, three.finished_at) == ("pending", "backfill", None)


async def test_no_such_change(database: Database) -> None:
    """Nor under an account that it is not of."""
    change = await parked(database, "app_1", {"note": NOTE})
    assert await one_change(database, change, "north") is None
    assert await one_change(database, change + 1) is None
    assert await one_change(database, 2**63 - 1) is None


async def standings(database: Database, appointment_id: str) -> list[history.Standing]:
    async with database.pool.acquire() as conn:
        return await history.standing(conn, appointment_id)


async def test_how_an_appointment_is(database: Database) -> None:
    """In each account that knows it: what waits, since its last failure until when, whether somebody speaks for it, and
    when the API's last answer came."""
    store = await registered(database)
    assert await standings(database, "app_1") == []
    await database.write("app_1", {"note": NOTE})
    (arrived,) = await standings(database, "app_1")
    assert (arrived.account, arrived.pending, arrived.due_in_s, arrived.held) == ("default", 1, None, False)
    claimed = await the_claim(store)
    (held,) = await standings(database, "app_1")
    assert (held.held, held.failures, held.synced_at) == (True, 0, None)
    await settle(store, settlement(claimed, due_in_s=600))
    (failed,) = await standings(database, "app_1")
    assert (failed.pending, failed.held, failed.failures) == (1, False, 1)
    assert failed.due_in_s == pytest.approx(600, abs=20)

    before = await database.value("SELECT now()")
    await synced(database, "app_2", {"note": NOTE})
    await parked(database, "app_2", {"note": NOTE}, account="north")
    await registered(database, account="south")
    default, north = await standings(database, "app_2")
    assert (default.account, default.pending, default.due_in_s, default.held) == ("default", 0, None, False)
    assert default.synced_at is not None
    assert default.synced_at >= before - timedelta(seconds=1)
    assert (north.account, north.pending, north.due_in_s, north.synced_at) == ("north", 0, None, None)


async def test_an_appointment_with_very_many_changes(database: Database) -> None:
    """They are counted to a bound."""
    await registered(database)
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.outbox (appointment_id, changes)
        SELECT 'hot', '{"note": null}' FROM generate_series(1, 1100)
        """
    )
    assert [one.pending for one in await standings(database, "hot")] == [1000]


# -- without counting --------------------------------------------------------------------------------------------------


async def test_what_is_seen_again(database: Database) -> None:
    """Budget, pause and workers are as they are now; counts, and what was estimated of them, are those from before."""
    store = await registered(database, limits(4, live_reserve=0.0))
    await database.pool.execute("INSERT INTO caspen_sync.worker VALUES ('default', 'w', '1', now(), now())")
    for number in range(6):
        await database.write(f"app_{number}", {"note": NOTE})
    await store.take_in(["default"])
    before = await counted(database)
    (account,) = before.accounts
    assert (account.live, account.budget_used, account.served, account.done_in_s) == (6, 0, True, pytest.approx(60.5))

    (first,) = await claim(store, 1)
    await database.write("app_7", {"note": NOTE})
    (again,) = before.seen_again(await seen(database)).accounts
    assert again == replace(account, budget_free=3, budget_used=1)

    await settle(store, stopped(first, "refused", wait_s=600))
    glanced = await seen(database)
    (paused,) = before.seen_again(glanced).accounts
    assert (paused.pause_kind, paused.pause_reason) == ("refused", "refused, says the API")
    assert paused.paused_for_s == pytest.approx(600, abs=20)
    assert paused.paused_at is not None
    assert (paused.live, paused.done_in_s) == (6, None)

    (later,) = before.seen_again(glanced.later(100.0)).accounts
    assert paused.paused_for_s - later.paused_for_s == pytest.approx(100.0)
    assert before.seen_again(glanced.later(9999.0)).accounts[0].paused_for_s == 0.0

    await database.pool.execute("DELETE FROM caspen_sync.worker")
    gone = before.seen_again(await seen(database))
    assert (gone.workers, gone.accounts[0].served) == ((), False)
    assert [one.worker for one in before.workers] == ["w"]


async def test_a_pause_that_ended_since(database: Database) -> None:
    """It is not told any more, whatever was counted when."""
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    await settle(store, stopped(await the_claim(store), "down", wait_s=600))
    before = await counted(database)
    assert before.accounts[0].pause_kind == "down"
    await database.pool.execute("UPDATE caspen_sync.account SET pause_kind = NULL, paused_until = NULL")
    (again,) = before.seen_again(await seen(database)).accounts
    assert (again.pause_kind, again.pause_reason, again.paused_for_s, again.paused_at) == (None,) * 4


async def test_accounts_that_come_and_go(database: Database) -> None:
    """One that was not counted yet is in the next count; one that is gone since stays as it was counted."""
    await registered(database)
    before = await counted(database)
    await registered(database, account="north")
    again = before.seen_again(await seen(database))
    assert again.accounts == before.accounts
    await database.pool.execute("DELETE FROM caspen_sync.account WHERE account = 'default'")
    assert before.seen_again(await seen(database)).accounts == before.accounts


async def test_it_is_the_same_as_a_count(database: Database) -> None:
    """What can be read without counting is in both, figure by figure."""
    store = await registered(database, limits(10))
    await database.write("app_1", {"note": NOTE})
    await park(database, await database.write("app_2", {"note": NOTE}))
    await settle(store, stopped(await the_claim(store), "manual", wait_s=0.0))
    before = await counted(database)
    assert before.seen_again(await seen(database)) == before
