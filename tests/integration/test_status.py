"""`caspen-sync status`: each figure against a database that was prepared for it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.canary import NOTE
from tests.support.claims import claim, limits, registered, settle, settlement, stopped, the_claim
from tests.support.database import Database
from tests.support.parking import NOWHERE, offline, park
from tests.support.processes import command, environment, services
from tests.support.roles import user_with
from tests.support.waiting import eventually
from worker import __version__, clock
from worker.claims import BudgetTold, PauseKind
from worker.sqlfiles import query
from worker.status import status as read


async def status(database: Database) -> dict[str, Any]:
    ended = await command("status", "--json", env=offline(database))
    assert (ended.exit_code, ended.stderr) == (0, "")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


async def test_an_empty_database(database: Database) -> None:
    """Nothing yet: said so, with the command to begin with."""
    ended = await command("status", env=offline(database))
    assert (ended.exit_code, ended.stdout) == (0, "no worker has run yet; caspen-sync run --once\n")
    assert await status(database) == {"accounts": [], "unregistered": [], "workers": [], "age_s": 0.0}


async def test_each_figure(database: Database) -> None:
    """Backlog by lane, whether it was taken in or not, the oldest of it, appointments on the wire, backing off and due,
    parked changes and the budget; synced and discarded changes do not count."""
    store = await registered(database, limits(10, live_reserve=0.0))
    for number in range(3):
        await database.write(f"app_{number}", {"note": NOTE})
    await store.take_in(["default"])
    first, second, third = await claim(store, 3)
    await settle(store, settlement(first, due_in_s=600))
    await settle(store, settlement(second, due_in_s=900), rest_s=0.0)
    await database.write("app_3", {"note": NOTE})
    await store.take_in(["default"])
    for _ in range(2):
        await database.write("app_4", {"note": NOTE}, lane="backfill")
    await database.pool.execute(
        "UPDATE caspen_sync.outbox SET created_at = now() - interval '725 seconds' WHERE id = $1", third.changes[0].id
    )
    for number in range(4):
        await park(database, await database.write(f"app_p{number}", {"note": NOTE}))
    await registered(database, account="north")
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'discarded' WHERE appointment_id = 'app_p3'")

    default, north = (await status(database))["accounts"]
    assert default.pop("oldest_s") == pytest.approx(725, abs=20)
    assert default.pop("next_due_s") == pytest.approx(580, abs=20)
    assert default == {
        "account": "default",
        "live": 4,
        "backfill": 2,
        "arrived": 2,
        "parked": 3,
        "in_flight": 1,
        "waiting": 2,
        "due": 1,
        "due_backfill": 0,
        "budget_limit": 10,
        "budget_configured": 10,
        "budget_free": 8,
        "held_back": 0,
        "budget_used": 2,
        "budget_reserve": 0,
        "window_s": 60.0,
        "guard_s": 0.5,
        "served": False,
        "pause_kind": None,
        "pause_reason": None,
        "paused_for_s": None,
        "paused_at": None,
        "done_in_s": None,
    }
    assert (north["account"], north["live"], north["oldest_s"], north["budget_free"]) == ("north", 0, None, 1000)

    said, _, header, first_row, second_row, total, *rest = (
        await command("status", env=offline(database))
    ).stdout.splitlines()
    assert said == "6 changes wait and no worker is running: caspen-sync run --once; 3 parked: caspen-sync parked list"
    assert header.split("  ")[0] == "ACCOUNT"
    assert first_row.split()[7:15] == ["6", "(2", "backfill)", "12m", first_row.split()[11], "1", "2", "3"]
    assert first_row.startswith("default  no worker is running for it  ")
    assert first_row.endswith("  8 of 10 free")
    assert second_row.split()[:7] == ["north", "ok", "0", "-", "0", "0", "0"]
    assert total.split() == ["total", "6", "12m", first_row.split()[11], "1", "2", "3"]
    assert rest == ["", "no worker is running", "3 parked changes: caspen-sync parked list"]


@pytest.mark.long
async def test_the_budget(database: Database) -> None:
    """What is free of how many; where the API grants less than is configured, that is said."""
    store = await registered(database, limits(10))
    await database.write("app_1", {"note": NOTE})
    await the_claim(store)
    (account,) = (await status(database))["accounts"]
    assert (account["budget_free"], account["budget_limit"], account["budget_configured"]) == (9, 10, 10)
    await store.tell_limit("default", 4, timeout_s=30)
    (account,) = (await status(database))["accounts"]
    assert (account["budget_limit"], account["budget_configured"]) == (4, 10)
    assert account["budget_free"] <= 4
    assert "; the API grants 4 only" in (await command("status", env=offline(database))).stdout


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("throttled", "throttled: throttled, says the API; goes on in 9m 5"),
        pytest.param("refused", "paused, refused: refused, says the API; next probe in 9m 5", marks=pytest.mark.long),
        pytest.param("down", "paused, down: down, says the API; next probe in 9m 5", marks=pytest.mark.long),
        pytest.param(
            "rejected", "paused, rejected: rejected, says the API; next probe in 9m 5", marks=pytest.mark.long
        ),
    ],
)
async def test_each_pause(database: Database, kind: PauseKind, text: str) -> None:
    """Its kind, its reason, and until when."""
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    await settle(store, stopped(await the_claim(store), kind, wait_s=599))
    assert text in (await command("status", env=offline(database))).stdout
    (account,) = (await status(database))["accounts"]
    assert account["pause_kind"] == kind
    assert 570 < account["paused_for_s"] < 600
    assert account["paused_at"]


async def test_a_throttle_that_is_over(database: Database) -> None:
    """It ends by itself, so it is no pause any more."""
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    await settle(store, stopped(await the_claim(store), "throttled", wait_s=0.01))
    over = "SELECT paused_until < now() FROM caspen_sync.account"
    await eventually(lambda: database.value(over), what="the throttle is over")
    row = (await command("status", env=offline(database))).stdout.splitlines()[3]
    assert row.startswith("default  no worker is running for it  ")


async def test_workers(database: Database) -> None:
    """Those that are alive, with their version, their accounts and since when; one that died is not among them."""
    settings = {"ACCOUNTS__NORTH__TOKEN": "token-north"}
    await registered(database)
    await database.pool.execute(
        "INSERT INTO caspen_sync.worker "
        "VALUES ('default', 'dead:1:x', '0', now() - interval '1 day', now() - interval '1 minute')"
    )
    await registered(database, account="south")
    async with services(2, environment(database.dsn, NOWHERE, settings)):
        alive = "SELECT count(DISTINCT worker) = 3 FROM caspen_sync.worker"
        await eventually(lambda: database.value(alive), what="both are in the list")
        found = await status(database)
        served = [(one["account"], one["served"]) for one in found["accounts"]]
        assert served == [("default", True), ("north", True), ("south", False)]
        workers = found["workers"]
        assert [(one["version"], one["accounts"]) for one in workers] == [(__version__, ["default", "north"])] * 2
        assert workers[0]["started_at"] <= workers[1]["started_at"]
        ended = await command("status", env=offline(database))
        assert ended.stdout.startswith("everything is synced\n")
        assert ended.stdout.count(f", version {__version__}, since ") == 2
        assert "dead" not in ended.stdout
        assert "different versions" not in ended.stdout
        await database.pool.execute(
            "UPDATE caspen_sync.worker SET version = '0.0' WHERE worker = $1", workers[0]["worker"]
        )
        ended = await command("status", env=offline(database))
        assert f"the workers are of different versions: 0.0, {__version__}\n" in ended.stdout


async def test_somebody_else_uses_the_key(database: Database) -> None:
    """Slots that are held back are neither free nor used by us."""
    store = await registered(database, limits(10))
    await database.write("app_1", {"note": NOTE})
    await the_claim(store)
    told = BudgetTold(account="default", limit=10, remaining=6, started_at=clock.now())
    assert await store.hold_back([told]) == {"default": 3}
    (account,) = (await status(database))["accounts"]
    assert (account["budget_free"], account["held_back"], account["budget_used"]) == (6, 3, 1)
    assert "  6 of 10 free, 3 held back\n" in (await command("status", env=offline(database))).stdout


async def test_an_account_that_no_configuration_names(database: Database) -> None:
    """It is named, with how many changes wait and for how long; a worker that registers it ends that."""
    await registered(database)
    await database.write("app_1", {"note": NOTE})
    for number in range(3):
        await database.write(f"app_{number}", {"note": NOTE}, account="nroth", lane="backfill" if number else "live")
    await database.write("app_1", {"note": NOTE}, account="a\x1b[2J")
    await database.pool.execute("UPDATE caspen_sync.outbox SET created_at = now() - interval '1 hour' WHERE id = 2")
    found = await status(database)
    assert [one["account"] for one in found["accounts"]] == ["default"]
    odd, nroth = found["unregistered"]
    assert nroth.pop("oldest_s") == pytest.approx(3600, abs=20)
    assert nroth == {"account": "nroth", "changes": 3}
    assert (odd["account"], odd["changes"]) == ("a\x1b[2J", 1)
    ended = await command("status", env=offline(database))
    assert "3 for account nroth, which no configuration names: accounts.nroth is missing, or the" in ended.stdout
    assert ended.stdout.replace("\n", "").isprintable()
    rows = [line.split("  ")[0] for line in ended.stdout.splitlines() if "so no worker has it" in line]
    assert rows == ["a\N{REPLACEMENT CHARACTER}[2J", "nroth"]
    await registered(database, account="nroth")
    assert [one["account"] for one in (await status(database))["unregistered"]] == ["a\x1b[2J"]


async def test_an_account_that_no_worker_has_taken_up_yet(database: Database) -> None:
    """The first change after migrate: the configuration names its account, so what is missing is a worker."""
    await database.write("app_1", {"note": NOTE})
    said, _, _, row, *_ = (await command("status", env=offline(database))).stdout.splitlines()
    assert said == (
        "1 change waits: no worker has taken up account default yet (1 change): caspen-sync run --once, or restart "
        "the service"
    )
    assert row.startswith("default  no worker has taken it up yet  1  ")


async def test_the_estimate(database: Database) -> None:
    """It comes from when each slot is free: soon after a burst, that is when the burst's slots come back, all at once.
    Slots that have never been used are free, and those that are held back do not count."""
    store = await registered(database, limits(4, live_reserve=0.0))
    await database.pool.execute(
        """
        UPDATE caspen_sync.rate_slot r SET free_at = now() + seen.after, held_until = now() + seen.held
        FROM (VALUES (1, interval '10 minutes', interval '10 minutes'), (2, '40 seconds', '20 seconds'),
                     (3, '40 seconds', NULL))
             AS seen (slot, after, held)
        WHERE r.slot = seen.slot
        """
    )
    for number in range(5):
        await database.write(f"app_{number}", {"note": NOTE})
    await store.take_in(["default"])
    await database.pool.execute("INSERT INTO caspen_sync.worker VALUES ('default', 'w', '1', now(), now())")
    (account,) = (await status(database))["accounts"]
    assert (account["budget_free"], account["held_back"], account["due"]) == (1, 1, 5)
    assert account["done_in_s"] == pytest.approx(40 + 60.5, abs=10)


async def test_names_are_counted_to_a_bound(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody works off grows for ever; what it costs to look does not."""
    monkeypatch.setattr("worker.status.STRANGERS_COUNTED", 5)
    for number in range(20):
        await database.write(f"app_{number}", {"note": NOTE}, account="nroth")
    async with database.pool.acquire() as conn:
        (nroth,) = (await read(conn)).unregistered
    assert nroth.changes == 5


async def test_the_reader_may_ask(database: Database) -> None:
    """What a dashboard's login sees is enough for all of it."""
    await registered(database)
    await database.write("app_1", {"note": NOTE})
    await database.write("app_1", {"note": NOTE}, account="nroth")
    async with user_with(database, "caspen_sync_reader") as dsn:
        ended = await command("status", "--json", env=environment(dsn, NOWHERE))
        assert (ended.exit_code, ended.stderr) == (0, "")
        found = json.loads(ended.stdout)
        assert (found["accounts"][0]["live"], found["unregistered"][0]["changes"]) == (1, 1)


async def fill(database: Database, rows: int) -> None:
    await registered(database)
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.outbox (appointment_id, changes, lane)
        SELECT 'app_' || n, '{"note": null}', CASE WHEN n % 2 = 0 THEN 'live' ELSE 'backfill' END
        FROM generate_series(1, $1::int) n
        """,
        rows,
    )


@pytest.mark.long
async def test_a_hundred_thousand(database: Database) -> None:
    """It answers soon over a backlog of 100,000 beside as many that are done, and what is parked has an index."""
    await fill(database, 200_000)
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'synced', finished_at = now() WHERE id > 100000")
    await database.pool.execute("ANALYZE caspen_sync.outbox")
    began = time.monotonic()
    (account,) = (await status(database))["accounts"]
    took_s = time.monotonic() - began
    assert (account["live"], account["backfill"]) == (50_000, 50_000)
    async with database.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        plan = "\n".join(row[0] for row in await conn.fetch("EXPLAIN (ANALYZE, BUFFERS) " + query("status")))
    print(f"status over 100,000 pending: {took_s:.2f} s\n{plan}")
    assert "outbox_parked" in plan
    assert took_s < 5
