"""Changes that no worker will come by: found, and sent after what `check` says was run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.checking import holds, looked, scanned
from tests.support.claims import accepted, claim, registered, settle, settlement, the_claim
from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment
from tests.support.roles import user_with
from worker.check import Verdict
from worker.check.woken import wake
from worker.config import DatabaseSettings
from worker.database import connect_options
from worker.sandbox import Sandbox, SandboxSettings
from worker.sqlfiles import query
from worker.store import Store

FINE, BAD = Verdict.OK, Verdict.FAILED
BY_HAND = "UPDATE caspen_sync.outbox SET state = 'pending', finished_at = NULL WHERE appointment_id = $1"


@contextlib.asynccontextmanager
async def nothing_arrives(database: Database) -> AsyncIterator[None]:
    """As after ALTER TABLE … DISABLE TRIGGER outbox_arrival."""
    await database.pool.execute("ALTER TABLE caspen_sync.outbox DISABLE TRIGGER outbox_arrival")
    yield
    await database.pool.execute("ALTER TABLE caspen_sync.outbox ENABLE TRIGGER outbox_arrival")


async def synced(database: Database, store: Store, appointment_id: str) -> None:
    """One change of it is sent and accepted."""
    await database.write(appointment_id, {"note": NOTE})
    await settle(store, accepted(await the_claim(store)))


async def woken_as_a_worker(database: Database) -> None:
    """What a person does who has read the mend."""
    async with user_with(database, "caspen_sync_worker") as dsn:
        mend = (await looked(dsn))["woken"].mend
        assert mend == wake()
        conn = await asyncpg.connect(dsn)
        await conn.execute(mend)
        await conn.close()


@pytest.mark.long
async def test_what_is_sent_after_the_mend(database: Database) -> None:
    """Written while the trigger was off, for a new appointment and for a known one, and set to pending by hand:
    `run --once` leaves them and ends content, `check` fails with 78, and after its mend they are sent."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as api:
        env = environment(database.dsn, api.base_url, {"HTTP__LISTEN": ""})
        for name in ("app_known", "app_hand"):
            await database.write(name, {"note": NOTE})
        assert (await command("run", "--once", env=env)).exit_code == 0
        async with nothing_arrives(database):
            found = await looked(database.dsn)
            holds(found["triggers"], BAD, "outbox_arrival", "ENABLE TRIGGER outbox_arrival; then check again: `woken`")
            for name in ("app_known", "app_new", "app_new"):
                await database.write(name, {"note": NOTE})
        await database.pool.execute(BY_HAND, "app_hand")
        assert (await command("run", "--once", env=env)).exit_code == 0
        assert (await database.states())["pending"] == 4
        checked = await command("check", env=env)
        assert checked.exit_code == 78
        assert "3 appointments with pending changes that no worker will come by, such as app_hand" in checked.stdout
        assert wake() in checked.stdout
        await woken_as_a_worker(database)
        holds((await looked(database.dsn))["woken"], FINE, "looked at each")
        assert (await command("run", "--once", env=env)).exit_code == 0
    assert await database.states() == {"synced": 5}
    assert len(api.log) == 5


async def test_what_is_known(database: Database) -> None:
    """Arrived, due, leased with something newer arrived, resting, parked or synced: a worker comes by all of these."""
    store = await registered(database)
    await synced(database, store, "app_synced")
    await database.write("app_parked", {"note": NOTE})
    await settle(store, accepted(await the_claim(store)))
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'parked' WHERE appointment_id = 'app_parked'")
    await database.write("app_resting", {"note": NOTE})
    await settle(store, settlement(await the_claim(store), due_in_s=600.0))
    await database.write("app_leased", {"note": NOTE})
    await the_claim(store)
    for name in ("app_due", "app_resting"):
        await database.write(name, {"note": NOTE})
    await store.take_in(["default"])
    for name in ("app_arrived", "app_synced", "app_leased"):
        await database.write(name, {"note": NOTE}, lane="backfill")
    holds((await looked(database.dsn))["woken"], FINE, "looked at each")


@pytest.mark.parametrize("resting", [False, True])
async def test_an_appointment_at_work(database: Database, *, resting: bool) -> None:
    """A change that did not arrive while its appointment was leased or resting: the mend leaves lease and time as they
    are, and the appointment is due once more afterwards."""
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    held = await the_claim(store)
    if resting:
        await settle(store, settlement(held, due_in_s=600.0))
    async with nothing_arrives(database):
        await database.write("app_1", {"note": NOTE})
    at_work = "SELECT due_at, token, leased_until FROM caspen_sync.queue"
    before = await database.rows(at_work)
    holds((await looked(database.dsn))["woken"], BAD, "1 appointment with", "INSERT INTO caspen_sync.queue")
    await woken_as_a_worker(database)
    assert await database.rows(at_work) == before
    if not resting:
        await settle(store, accepted(held))
        (again,) = await claim(store)
        assert len(again.changes) == 1


async def test_the_mend_where_nothing_is_wrong(database: Database) -> None:
    """Run for nothing, or twice, it makes nothing due that has nothing to send."""
    store = await registered(database)
    await synced(database, store, "app_1")
    await database.pool.execute(wake())
    assert await claim(store) == []


async def test_it_looks_at_so_many(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long backlog costs no more than the bound, by index, in each account; it is said that there may be more."""
    count = 3000
    async with nothing_arrives(database):
        for account in ("default", "nroth"):
            await database.pool.execute(
                """
                INSERT INTO caspen_sync.outbox (account, appointment_id, changes)
                SELECT $1, 'app_' || lpad(i::text, 6, '0'), '{"note": null}' FROM generate_series(1, $2::int) AS i
                """,
                account,
                count,
            )
    # Known are those of one account, and the first appointments of the other.
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.queue (account, appointment_id, lane, due_at, newest_id)
        SELECT account, appointment_id, lane, now(), id FROM caspen_sync.outbox
        WHERE account = 'default' OR appointment_id <= 'app_000010'
        """
    )
    conn = await asyncpg.connect(**(connect_options(DatabaseSettings()) | {"dsn": database.dsn}))
    prepared = await conn.prepare(query("check_woken"))
    read = list(scanned((await prepared.explain(50, analyze=True))[0]["Plan"]))
    await conn.close()
    assert {kind for kind, _ in read} <= {"Index Scan", "Index Only Scan"}
    assert sum(rows for _, rows in read) <= 2 * 50 * 3 + 20, read
    monkeypatch.setattr("worker.check.woken.MOST_CHANGES", 50)
    found = (await looked(database.dsn))["woken"]
    holds(found, BAD, "at least 40 appointments with", "INSERT INTO caspen_sync.queue")
    assert "app_000011 of account nroth" in found.said
    monkeypatch.setattr("worker.check.woken.MOST_CHANGES", 10)
    holds((await looked(database.dsn))["woken"], FINE, "of each account the first 10")


@pytest.mark.long
async def test_a_paused_account(database: Database) -> None:
    """`check` alone, without --token, does not end with 0 while the API refuses an account's token."""
    await registered(database)
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as api:
        env = environment(database.dsn, api.base_url, {"HTTP__LISTEN": ""})
        assert (await command("check", env=env)).exit_code == 0
        for kind, code in (("refused", 77), ("down", 69), ("rejected", 78), ("manual", 0), ("throttled", 0)):
            await database.pool.execute(
                "UPDATE caspen_sync.account SET pause_kind = $1, pause_reason = 'why', paused_until = now() + '1 h'",
                kind,
            )
            ended = await command("check", env=env)
            assert (ended.exit_code, "account default, " in ended.stdout) == (code, True), kind
