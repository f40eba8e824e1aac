"""The age of the data: what a newer change has set is left out, and told of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.claims import accepted as taken
from tests.support.claims import claim, registered, settle, the_claim
from tests.support.database import Database
from tests.support.loading import NAME, accepted, loaded, moved, outbox
from tests.support.waiting import eventually
from worker.backfill.loading import Loaded
from worker.backfill.registry import LeftOut, backfills, left_out
from worker.retention import prune

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


async def synced(database: Database, appointment: str, changes: Mapping[str, Any]) -> int:
    """A live change that the API has taken."""
    store = await registered(database)
    written = await database.write(appointment, changes)
    assert not await settle(store, taken(await the_claim(store)))
    return written


async def newest(database: Database, appointment: str, changes: Mapping[str, Any], *, is_synced: bool) -> int:
    return await synced(database, appointment, changes) if is_synced else await database.write(appointment, changes)


async def aged(database: Database, change_id: int, days: float) -> None:
    await database.pool.execute(
        "UPDATE caspen_sync.outbox SET created_at = now() - make_interval(secs => $2 * 86400) WHERE id = $1",
        change_id,
        days,
    )


async def listed(database: Database, name: str = NAME) -> list[LeftOut]:
    return [one async for one in left_out(database.pool, "default", name)]


@pytest.mark.parametrize("is_synced", [True, False])
async def test_what_a_newer_change_has_set_is_left_out(database: Database, is_synced: bool) -> None:
    """Whether that is synced or pending; what it has not set is sent."""
    newer = await newest(database, "app_a", {"note": "today's", "confirmed": True}, is_synced=is_synced)
    lines = [("app_a", {"note": "old", "room_id": 1, "confirmed": False}), ("app_b", {"note": "old"})]
    assert await loaded(database, lines, as_of=YESTERDAY) == Loaded(lines=2, left_out=1)
    assert (await outbox(database))[1:] == [("app_a", {"room_id": 1}, "pending"), ("app_b", {"note": "old"}, "pending")]
    (entry,) = await listed(database)
    assert (entry.line, entry.appointment_id, entry.fields) == (1, "app_a", ("confirmed", "note"))
    assert entry.newer == (newer, newer)
    (counts,) = await backfills(database.pool)
    assert (counts.left_out, counts.outdated) == (1, 0)


async def test_a_line_with_nothing_left_is_discarded(database: Database) -> None:
    """It takes no request: its appointment is not due for it."""
    store = await registered(database)
    await synced(database, "app_a", {"note": "today's"})
    assert await loaded(database, [("app_a", {"note": "old"})], as_of=YESTERDAY) == Loaded(
        lines=1, left_out=1, outdated=1
    )
    assert (await outbox(database))[1] == ("app_a", {"note": "old"}, "discarded")
    (counts,) = await backfills(database.pool)
    assert (counts.loaded, counts.outdated, counts.pending, counts.synced, counts.state) == (1, 1, 0, 0, "done")
    assert await store.take_in(["default"]) == {}
    assert not await claim(store, 10)


@pytest.mark.parametrize("is_synced", [True, False])
async def test_what_is_older_is_overwritten(database: Database, is_synced: bool) -> None:
    """A change that was written before the data was taken."""
    older = await newest(database, "app_a", {"note": "older"}, is_synced=is_synced)
    await aged(database, older, 2)
    assert await loaded(database, [("app_a", {"note": "of yesterday"})], as_of=YESTERDAY) == Loaded(lines=1)
    assert (await outbox(database))[1] == ("app_a", {"note": "of yesterday"}, "pending")


async def test_without_as_of_it_is_of_now(database: Database) -> None:
    """What was there when it began is older, what is committed while it is loaded is newer."""
    await synced(database, "app_a", {"note": "before"})
    staging, _ = await accepted(database, [("app_a", {"note": "file"}), ("app_b", {"note": "file"})])
    await database.write("app_b", {"note": "meanwhile"})
    assert await moved(database, staging) == Loaded(lines=2, left_out=1, outdated=1)
    assert [one for one in await outbox(database) if one[2] == "discarded"] == [
        ("app_b", {"note": "file"}, "discarded")
    ]


async def test_its_own_lines_are_not_newer(database: Database) -> None:
    """Several lines of one appointment, and those of an earlier run of the same age."""
    lines = [("app_a", {"note": "1"}), ("app_a", {"note": "2"})]
    assert await loaded(database, lines, as_of=YESTERDAY) == Loaded(lines=2)
    store = await registered(database)
    await settle(store, taken(await the_claim(store)))
    more = await loaded(database, [*lines, ("app_a", {"note": "3"})], as_of=YESTERDAY)
    assert more == Loaded(lines=1)


async def test_a_backfill_is_as_old_as_its_data(database: Database) -> None:
    """One that was loaded last, of data from before, does not overwrite what a newer one said."""
    await loaded(database, [("app_a", {"note": "yesterday's"})], as_of=YESTERDAY)
    older = YESTERDAY - timedelta(days=30)
    assert (await loaded(database, [("app_a", {"note": "last month's"})], as_of=older, name="b")).outdated == 1
    newer = YESTERDAY + timedelta(hours=1)
    assert (await loaded(database, [("app_a", {"note": "fresh"})], as_of=newer, name="c")).outdated == 0


async def test_a_change_of_unknown_age_is_newer(database: Database) -> None:
    """It was synced since, and somebody has deleted it: old data over newer would be the worse mistake."""
    await synced(database, "app_a", {"note": "some time"})
    await database.pool.execute("DELETE FROM caspen_sync.outbox")
    assert (await loaded(database, [("app_a", {"note": "old"})], as_of=YESTERDAY)).outdated == 1
    await database.pool.execute("UPDATE caspen_sync.appointment SET synced_at = now() - interval '3 days'")
    assert (await loaded(database, [("app_a", {"note": "old"})], as_of=YESTERDAY, name="b")).outdated == 0


async def test_what_the_retention_has_deleted_is_as_old_as_that(database: Database) -> None:
    """Of a field that was set long ago, by a change that is not there any more, the file of yesterday is news, although
    another field was set today; the file of last year is not."""
    old = await synced(database, "app_a", {"note": "long ago"})
    await aged(database, old, 40)
    await database.pool.execute("UPDATE caspen_sync.outbox SET finished_at = now() - interval '40 days'")
    await prune(database.workers, retention_days=30)
    await synced(database, "app_a", {"room_id": 1})
    assert await database.value("SELECT count(*) FROM caspen_sync.outbox") == 1
    assert (await loaded(database, [("app_a", {"note": "news"})], as_of=YESTERDAY)).left_out == 0
    last_year = YESTERDAY - timedelta(days=365)
    assert (await loaded(database, [("app_a", {"note": "old"})], as_of=last_year, name="b")).outdated == 1


async def test_parked_and_discarded_changes_are_not_newer(database: Database) -> None:
    """They have set nothing."""
    for state in ("parked", "discarded"):
        change = await database.write("app_a", {"note": "refused"})
        await database.pool.execute(
            "UPDATE caspen_sync.outbox SET state = $2, finished_at = now() WHERE id = $1", change, state
        )
    assert (await loaded(database, [("app_a", {"note": "old"})], as_of=YESTERDAY)).left_out == 0


async def test_a_change_that_is_just_being_committed_counts(database: Database) -> None:
    """Its transaction is open when the line comes: the line waits, and then sees it."""
    staging, _ = await accepted(database, [("app_a", {"note": "old", "room_id": 1})], as_of=YESTERDAY)
    async with database.pool.acquire() as writer:
        held = writer.transaction()
        await held.start()
        await database.write("app_a", {"note": "today's"}, conn=writer)
        moving = asyncio.create_task(moved(database, staging))
        await eventually(
            lambda: database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ),
            what="a step that waits",
        )
        await held.commit()
    assert (await moving).left_out == 1
    assert (await outbox(database))[-1] == ("app_a", {"room_id": 1}, "pending")


async def test_many_are_listed_in_their_order(database: Database) -> None:
    """More than a page of them."""
    number = 1500
    await database.pool.execute(
        "INSERT INTO caspen_sync.outbox (appointment_id, changes)"
        " SELECT 'app_' || n, '{\"note\": null}' FROM generate_series(1, $1::int) AS n",
        number,
    )
    lines = [(f"app_{n}", {"note": "old"}) for n in range(number, 0, -1)]
    assert (await loaded(database, lines, as_of=YESTERDAY)).outdated == number
    assert [one.line for one in await listed(database)] == list(range(1, number + 1))
