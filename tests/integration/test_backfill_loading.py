"""From lines to changes in the outbox: each once, in order, whoever is killed and whoever comes twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from tests.support.database import Database
from tests.support.loading import NAME, accepted, begun, loaded, moved, outbox, row, rows, staged
from tests.support.waiting import eventually
from worker.backfill import loading
from worker.backfill.loading import Loaded
from worker.backfill.registry import backfills
from worker.errors import BackfillRefused, BackfillTakenOver

LINES = [("app_b", {"note": "one"}), ("app_a", {"room_id": 1}), ("app_b", {"note": "two"}), ("app_a", {"room_id": 2})]
IN_OUTBOX = [
    ("app_a", {"room_id": 1}),
    ("app_a", {"room_id": 2}),
    ("app_b", {"note": "one"}),
    ("app_b", {"note": "two"}),
]


async def changes(database: Database) -> list[tuple[str, dict[str, object]]]:
    return [(appointment, body) for appointment, body, _ in await outbox(database)]


async def test_each_line_becomes_a_change_of_its_lane(database: Database) -> None:
    """Once, in the order of its appointment's lines, with the backfill's name and the age of the data."""
    as_of = datetime(2026, 3, 1, tzinfo=UTC)
    assert await loaded(database, LINES, as_of=as_of) == Loaded(lines=4)
    assert await changes(database) == IN_OUTBOX
    found = await database.rows("SELECT DISTINCT lane, source, as_of, state FROM caspen_sync.outbox")
    assert [tuple(one) for one in found] == [("backfill", NAME, as_of, "pending")]
    (entry,) = await backfills(database.pool)
    assert (entry.lines, entry.loaded, entry.pending, entry.state) == (4, 4, 4, "working")


async def test_steps(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """More lines than a step takes, and as many as it takes."""
    monkeypatch.setattr(loading, "STEP", 7)
    lines = [(f"app_{number % 5}", {"room_id": number}) for number in range(21)]
    seen: list[int] = []
    staging, _ = await accepted(database, lines)
    await moved(database, staging, lambda so_far: seen.append(so_far.lines))
    assert seen == [7, 14, 21, 21]
    rooms = [body["room_id"] for appointment, body in await changes(database) if appointment == "app_3"]
    assert rooms == [3, 8, 13, 18]


async def test_nothing_is_loaded_before_all_is_accepted(database: Database) -> None:
    """What was read and not accepted is no change, and is cleared away by the next run."""
    await staged(database, LINES)
    assert not await outbox(database)
    assert await loaded(database, LINES[:1]) == Loaded(lines=1)
    assert await database.value("SELECT count(*) FROM caspen_sync.backfill_line") == 1


async def test_a_second_run_adds_nothing_twice(database: Database) -> None:
    """All of it is known; and the backfill is as done as before."""
    await loaded(database, LINES)
    staging, found = await accepted(database, LINES)
    assert (found.new, found.known, found.unloaded) == (0, 4, 0)
    assert [entry.state for entry in await backfills(database.pool)] == ["working"]
    assert await moved(database, staging) == Loaded()
    assert await changes(database) == IN_OUTBOX
    (entry,) = await backfills(database.pool)
    assert (entry.lines, entry.state) == (4, "working")


async def test_a_second_run_adds_what_is_missing(database: Database) -> None:
    """Of equal lines, as many as there are more than before; whatever the order of keys."""
    same = ("app_a", {"note": "x", "room_id": 1})
    await loaded(database, [same, ("app_b", {"note": None}), same])
    again = ("app_a", {"room_id": 1, "note": "x"})
    staging, found = await accepted(database, [("app_c", {"note": "new"}), again, same, same, ("app_b", {"note": ""})])
    assert (found.new, found.known) == (3, 2)
    await moved(database, staging)
    assert sorted(map(repr, await changes(database))) == sorted(
        map(
            repr,
            [("app_a", dict(same[1]))] * 3
            + [("app_b", {"note": None}), ("app_b", {"note": ""}), ("app_c", {"note": "new"})],
        )
    )


async def test_what_was_accepted_is_loaded_by_the_next_run(database: Database) -> None:
    """A process that died between two steps is gone on for, though the next one brings no line."""
    await accepted(database, LINES)
    (entry,) = await backfills(database.pool)
    assert entry.state == "loading"
    staging, found = await accepted(database, LINES)
    assert (found.new, found.known, found.unloaded) == (0, 4, 4)
    assert await moved(database, staging) == Loaded(lines=4)
    assert await changes(database) == IN_OUTBOX


async def test_the_later_process_takes_over(database: Database) -> None:
    """Whatever the earlier one does then fails, and leaves the later one's lines alone."""
    earlier = await staged(database, LINES[:2])
    later = await staged(database, LINES)
    with pytest.raises(BackfillTakenOver, match="another process has taken over"):
        await earlier.stage(rows(LINES))
    with pytest.raises(BackfillTakenOver):
        await earlier.accept()
    await earlier.abandon()
    with pytest.raises(BackfillTakenOver):
        await moved(database, earlier)
    assert (await later.accept()).new == 4
    assert await moved(database, later) == Loaded(lines=4)
    assert await changes(database) == IN_OUTBOX


async def test_an_earlier_process_is_stopped_in_the_middle_of_loading(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has loaded some of it; the later one loads the rest, and nothing of the same."""
    monkeypatch.setattr(loading, "STEP", 1)
    earlier, _ = await accepted(database, LINES)
    later = []

    def take_over(so_far: Loaded) -> None:
        if so_far.lines == 2:
            later.append(asyncio.ensure_future(accepted(database, LINES)))

    with pytest.raises(BackfillTakenOver):  # noqa: PT012  the taking over may come a little later
        while True:
            await moved(database, earlier, take_over)
    ((staging, found),) = await asyncio.gather(*later)
    assert found.known == 4
    await moved(database, staging)
    assert sorted(map(repr, await changes(database))) == sorted(map(repr, IN_OUTBOX))


async def test_of_two_that_begin_at_once_one_has_all_accounts(database: Database) -> None:
    """In whatever order they come by them, the later has them all, so that they never stop each other."""
    both = ("default", "north")
    first = await begun(database, accounts=both)
    second = await begun(database, accounts=both)
    default, north = row(1, "app_1", {"note": "x"}), row(2, "app_2", {"note": "x"}, account="north")
    await first.stage([default])
    await second.stage([north])
    await second.stage([default])
    with pytest.raises(BackfillTakenOver):
        await first.stage([north])
    await first.abandon()
    assert (await second.accept()).new == 2
    assert (await moved(database, second)).lines == 2


async def test_what_is_abandoned_leaves_nothing(database: Database) -> None:
    """Neither a line nor an entry; but what was accepted before stays."""
    await (await staged(database, LINES)).abandon()
    assert not await backfills(database.pool)
    assert await database.value("SELECT count(*) FROM caspen_sync.backfill_line") == 0
    await loaded(database, LINES)
    await (await staged(database, [*LINES, *LINES])).abandon()
    (entry,) = await backfills(database.pool)
    assert entry.lines == 4
    assert await database.value("SELECT count(*) FROM caspen_sync.backfill_line") == 4


async def test_what_was_accepted_is_not_abandoned(database: Database) -> None:
    """The commit went through and its answer got lost, so that the process believes that nothing was accepted."""
    staging = await staged(database, LINES)
    await staging.accept()
    await staging.abandon()
    assert await moved(database, staging) == Loaded(lines=4)


async def test_several_accounts(database: Database) -> None:
    """Lines of several accounts are one backfill, with an entry for each."""
    staging = await begun(database, accounts=["default", "north", "south"])
    await staging.stage([row(1, "app_a", {"note": "d"}), row(2, "app_a", {"note": "n"}, "north")])
    await staging.stage([row(3, "app_a", {"note": "d2"}), row(4, "app_b", {"note": "n2"}, "north")])
    assert (await staging.accept()).new == 4
    assert await moved(database, staging) == Loaded(lines=4)
    assert [(entry.account, entry.lines) for entry in await backfills(database.pool, NAME)] == [
        ("default", 2),
        ("north", 2),
    ]
    assert {one["account"] for one in await database.rows("SELECT account FROM caspen_sync.outbox")} == {
        "default",
        "north",
    }


async def test_a_name_that_is_over_is_refused(database: Database) -> None:
    """One that was cancelled, and one whose lines are not known any more."""
    await loaded(database, LINES)
    await database.pool.execute("UPDATE caspen_sync.backfill SET cancelled_at = now(), cancelled_by = 'bob@desk'")
    with pytest.raises(BackfillRefused, match="was cancelled by bob@desk; to load it again, give it another --name"):
        await begun(database)
    await database.pool.execute("UPDATE caspen_sync.backfill SET cancelled_at = NULL, forgotten_at = now()")
    with pytest.raises(BackfillRefused, match="no longer known; give this one another --name"):
        await begun(database)
    assert await loaded(database, LINES, name="another") == Loaded(lines=4)


@pytest.mark.parametrize("ended", ["cancelled", "forgotten"])
async def test_a_name_that_is_over_by_the_time_its_first_line_comes(database: Database, ended: str) -> None:
    """Whoever began before is refused as well: a pipe may say nothing for long."""
    slow = await begun(database)
    await loaded(database, LINES)
    await database.pool.execute(f"UPDATE caspen_sync.backfill SET {ended}_at = now()")
    with pytest.raises(BackfillRefused):
        await slow.stage(rows([("app_late", {"note": "late"})]))
    assert len(await outbox(database)) == 4


async def test_loading_wakes_the_workers_and_does_not_flood_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred steps are told of once at the beginning and once at the end."""
    monkeypatch.setattr(loading, "STEP", 1)
    heard: list[str] = []
    listener = await asyncpg.connect(database.dsn)
    await listener.add_listener("caspen_sync", lambda *args: heard.append(args[-1]))
    await loaded(database, [(f"app_{number}", {"note": "n"}) for number in range(100)])
    await eventually(lambda: len(heard) >= 2, what="notifications")
    await listener.close()
    assert len(heard) == 2


async def test_a_writers_transaction_holds_up_its_own_line_only(database: Database) -> None:
    """What comes before is loaded meanwhile; the line itself waits, says so, and goes behind the writer's change."""
    lines = [(f"app_{number:03}", {"room_id": number}) for number in range(40)]
    staging, _ = await accepted(database, lines)
    waiting = asyncio.Event()
    async with database.pool.acquire() as writer:
        held = writer.transaction()
        await held.start()
        written = await database.write("app_020", {"confirmed": True}, conn=writer)
        moving = asyncio.create_task(moved(database, staging, lambda so_far: so_far.waiting and waiting.set()))
        await asyncio.wait_for(waiting.wait(), 30)
        assert await database.value("SELECT max(appointment_id) FROM caspen_sync.outbox") == "app_019"
        await held.commit()
    assert (await moving).lines == 40
    assert (
        await database.value("SELECT id FROM caspen_sync.outbox WHERE source = $1 AND appointment_id = 'app_020'", NAME)
        > written
    )


@pytest.mark.parametrize("unlimited", ["LOCK_WAIT_MS", "STEP_MS"])
async def test_an_application_is_never_the_victim_of_a_deadlock(
    database: Database, monkeypatch: pytest.MonkeyPatch, unlimited: str
) -> None:
    """Its transaction holds one appointment and wants another, which a step holds that comes to want the first one only
    after the application has waited for almost a second: of the two, Postgres would end the application. Either limit
    is enough against that: that of one wait, and that of all waits of a step together."""
    monkeypatch.setattr(loading, unlimited, 60_000)
    staging, _ = await accepted(
        database, [(appointment, {"room_id": 1}) for appointment in ("app_a", "app_b", "app_c")]
    )
    async with database.pool.acquire() as third, database.pool.acquire() as writer:
        between = third.transaction()
        await between.start()
        await database.write("app_b", {"note": "in between"}, conn=third)
        async with writer.transaction():
            await database.write("app_c", {"note": "first"}, conn=writer)
            moving = asyncio.create_task(moved(database, staging))
            await eventually(lambda: waiting(database, "", 0), what="a step that waits")
            writing = asyncio.create_task(database.write("app_a", {"note": "then"}, conn=writer))
            await eventually(
                lambda: writing.done() or waiting(database, str(writer.get_server_pid()), 0.8),
                what="a writer that waits",
            )
            await between.rollback()
            await writing
    assert (await moving).lines == 3
    assert await database.value("SELECT count(*) FROM caspen_sync.outbox WHERE lane = 'live'") == 2


async def waiting(database: Database, pid: str, for_s: float) -> int:
    """How many sessions have waited for a lock that long; of one process only, if it is named."""
    return await database.value(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        " AND ($1 = '' OR pid::text = $1) AND clock_timestamp() - query_start > make_interval(secs => $2)",
        pid,
        for_s,
    )


async def test_postgres_that_goes_away_is_waited_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is cut in the middle of loading costs no line and doubles none."""
    monkeypatch.setattr(loading, "STEP", 2)
    monkeypatch.setattr(loading, "AWAY_S", 0.01)
    lines = [(f"app_{number}", {"room_id": number}) for number in range(20)]
    staging, _ = await accepted(database, lines)
    cuts: list[asyncio.Future[str]] = []

    def cut(so_far: Loaded) -> None:
        if so_far.lines in {4, 10}:
            cuts.append(
                asyncio.ensure_future(
                    database.pool.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
            )

    await moved(database, staging, cut)
    await asyncio.gather(*cuts, return_exceptions=True)  # each may cut the other's connection
    assert len(cuts) >= 2
    assert sorted(body["room_id"] for _, body in await changes(database)) == list(range(20))
