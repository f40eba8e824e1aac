"""Changing an account's limit while workers use its slots."""

from __future__ import annotations

import asyncio
from functools import partial

import asyncpg
import pytest

from tests.support.claims import accepted, blocked, claim, ids, limits, registered, settle
from tests.support.database import Database
from tests.support.waiting import eventually
from worker.config import DatabaseSettings
from worker.database import connect_options
from worker.store import Store


async def test_lowering_spares_a_slot_that_is_just_being_taken(database: Database) -> None:
    """A slot that a claim takes while the limit is lowered stands for a request: it stays, and a rested one goes."""
    await registered(database, limits(10))
    claimer = await asyncpg.connect(database.dsn)
    register = await asyncpg.create_pool(database.dsn, min_size=0, max_size=1)
    async with register.acquire() as conn:
        pid = conn.get_server_pid()
    await claimer.execute("BEGIN")
    await claimer.execute("UPDATE caspen_sync.rate_slot SET free_at = now() + interval '90 s' WHERE slot <= 4")
    lowering = asyncio.create_task(Store(register, worker="other-host").register({"default": limits(5)}))
    await asyncio.wait([lowering, asyncio.create_task(blocked(database, pid))], return_when=asyncio.FIRST_COMPLETED)
    await claimer.execute("COMMIT")
    await lowering
    await claimer.close()
    await register.close()
    assert await database.value("SELECT count(*) FROM caspen_sync.rate_slot") == 5
    assert await database.value("SELECT count(*) FROM caspen_sync.rate_slot WHERE free_at > now()") == 4


@pytest.mark.long
async def test_the_limit_may_change_under_load(database: Database) -> None:
    """Hosts that register other limits again and again do not disturb claims and settles, nor the other way round:
    no deadlock, no lost settle, and never more requests on the wire than the largest limit."""
    settings = {"rate_window_s": 0.02, "rate_guard_s": 0.0}
    await registered(database, limits(30, **settings), timeout_s=0.02)
    on_the_wire: set[str] = set()
    sent: list[int] = []
    total = 600
    await database.pool.execute(
        "INSERT INTO caspen_sync.outbox (appointment_id, changes) "
        "SELECT 'app_' || n, '{\"note\": null}' FROM generate_series(1, $1::int) n",
        total,
    )

    async def work(number: int) -> None:
        store = Store(database.workers, worker=f"worker-{number}")
        while len(sent) < total:
            await store.take_in(["default"])
            claims = await claim(store, 8, timeout_s=0.02)
            for one in claims:
                assert one.appointment_id not in on_the_wire
                on_the_wire.add(one.appointment_id)
                sent.extend(ids(one))
            await asyncio.sleep(0)
            on_the_wire.difference_update(one.appointment_id for one in claims)
            if claims:
                assert await settle(store, *map(accepted, claims), rest_s=0.02) == []

    def progress_of(goal: int) -> bool:
        return len(sent) >= goal

    async def resize(number: int) -> None:
        size = 0
        for goal in range(0, total, 10):
            await eventually(partial(progress_of, goal), limit_s=50, every_s=0.001, what="progress")
            size = (size * 7 + 11 + number) % 29
            await registered(database, limits(1 + size, **settings), timeout_s=0.02)

    async with asyncio.timeout(50):
        await asyncio.gather(*(work(number) for number in range(5)), *(resize(number) for number in range(2)))
    assert len(sent) == len(set(sent)) == total
    assert await database.states() == {"synced": total}
    assert await database.value("SELECT count(*) FROM caspen_sync.rate_slot") == await database.value(
        "SELECT rate_limit FROM caspen_sync.account"
    )


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
async def test_hosts_may_name_their_accounts_in_any_order(database: Database, order: tuple[str, str]) -> None:
    """Claims over refused accounts take the accounts' rows in one order, whatever the order in the configuration."""
    for account in ("a", "b"):
        await registered(database, limits(10), account=account)
        await database.write("app_1", {"note": None}, account=account)
    store = Store(database.workers, worker="worker-1")
    await store.take_in(["a", "b"])
    await database.pool.execute("UPDATE caspen_sync.account SET pause_kind = 'refused', paused_until = now()")
    settings = DatabaseSettings.model_validate({"dsn": database.dsn})
    pool = await asyncpg.create_pool(min_size=0, max_size=1, **connect_options(settings))
    async with pool.acquire() as conn:
        pid = conn.get_server_pid()
    first = await asyncpg.connect(database.dsn)
    await first.execute("BEGIN")
    await first.execute("SELECT FROM caspen_sync.account WHERE account = 'a' FOR UPDATE")
    claiming = asyncio.create_task(
        Store(pool, worker="worker-2").claim(dict.fromkeys(order, 5), timeout_s=30, lease_s=60, max_changes=10)
    )
    await blocked(database, pid)
    await first.execute("SET lock_timeout = '1s'")
    await first.execute("SELECT FROM caspen_sync.account WHERE account = 'b' FOR UPDATE")
    await first.execute("COMMIT")
    await first.close()
    assert len(await claiming) == 2
    await pool.close()
