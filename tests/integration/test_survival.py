"""What happens around a running service: frozen workers, a database that goes away, writers that take their time."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import asyncpg
import pytest

from tests.support.audit import assert_final_state, assert_id_order, assert_no_overlap, assert_settled
from tests.support.database import Database
from tests.support.processes import DIRECT, TOKEN, command, environment, services, stop
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings


async def test_a_frozen_worker_writes_nothing_back_and_sends_nothing_more(database: Database) -> None:
    """SIGSTOP past the lease: another worker takes over. After SIGCONT the first neither overwrites nor sends again."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, latency_s=0.6)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"API__TIMEOUT_S": "1"})
        async with services(1, env, "--log-format", "json") as (frozen,):
            await database.write("app_1", {"note": "change 1"})
            await eventually(lambda: len(sandbox.log) == 1)
            frozen.send_signal(signal.SIGSTOP)
            await database.write("app_1", {"note": "change 2"})

            # The lease is 2.5 s; one run waits for it, and takes over.
            ended = await command("run", "--once", env=env)
            assert ended.exit_code == 0
            before = (await database.rows("SELECT * FROM caspen_sync.appointment"), await database.states())
            assert before[1] == {"synced": 2}
            requests = len(sandbox.log)

            frozen.send_signal(signal.SIGCONT)

            async def noticed() -> bool:
                return bool(
                    await database.value("SELECT count(*) FROM caspen_sync.attempt WHERE change_ids = '{1}'") == 1
                )

            await eventually(noticed, what="the frozen worker's own request is in the log of attempts")
            assert await stop(frozen) == 0
        assert (await database.rows("SELECT * FROM caspen_sync.appointment"), await database.states()) == before
        assert len(sandbox.log) == requests
        assert sandbox.appointments["app_1"]["note"] == "change 2"
        assert_id_order(sandbox.log)


@pytest.mark.long
async def test_lost_database_connections_are_survived(database: Database) -> None:
    """Every connection cut again and again, LISTEN's too: the service goes on, and loses and doubles nothing."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, latency_s=0.05)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"WORKER__POLL_S": "0.3"})
        async with services(2, env) as workers:
            # A service that cannot reach its database when it starts ends with 69, as the README says.
            await eventually(lambda: _alive(database, 2), what="both services are up")
            for number in range(120):
                await database.write(f"app_{number % 40:02}", {"note": f"change {number // 40}"})
                if number % 20 == 10:
                    await _cut_connections(database)
            await eventually(lambda: _all_synced(database), limit_s=40)
            for worker in workers:
                assert await stop(worker) == 0
        await assert_settled(database)
        await assert_final_state(database, sandbox.appointments)
        assert_no_overlap(sandbox.log)
        assert_id_order(sandbox.log)


async def _alive(database: Database, count: int) -> bool:
    return bool(await database.value("SELECT count(*) = $1 FROM caspen_sync.worker", count))


async def _cut_connections(database: Database) -> None:
    await database.pool.execute(
        """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'caspen-sync' AND datname = current_database()
        """
    )


async def _all_synced(database: Database) -> bool:
    return (await database.states()).keys() == {"synced"}


async def test_of_two_crossing_transactions_the_later_commit_wins(database: Database) -> None:
    """A flushes its change first and commits last, B the other way round: on the wire, the later commit is newer.

    Without the lock before the id, A's id would be the smaller one and its change lost.
    """
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        async with services(1, environment(database.dsn, sandbox.base_url)) as (worker,):
            for round_number in range(5):
                a, b = await asyncpg.connect(database.dsn), await asyncpg.connect(database.dsn)
                transaction_a, transaction_b = a.transaction(), b.transaction()
                await transaction_a.start()
                await transaction_b.start()
                await database.write("app_1", {"note": f"A{round_number}"}, conn=a)
                waiting = asyncio.create_task(database.write("app_1", {"note": f"B{round_number}"}, conn=b))
                await eventually(lambda: _waits_for_a_lock(database))
                await transaction_a.commit()
                await waiting
                await transaction_b.commit()
                await a.close()
                await b.close()
                expected = f"B{round_number}"
                await eventually(lambda expected=expected: _synced_note(database, expected))
            assert await stop(worker) == 0
        assert sandbox.appointments["app_1"]["note"] == "B4"


async def _waits_for_a_lock(database: Database) -> bool:
    return bool(
        await database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


async def _synced_note(database: Database, note: str) -> bool:
    return bool(
        await database.value("SELECT note = $1 FROM caspen_sync.appointment WHERE appointment_id = 'app_1'", note)
    )


async def test_an_open_writer_holds_up_nobody(database: Database) -> None:
    """While a transaction on an appointment stays open, that appointment's earlier changes and all others go on."""
    await _with_open_writer(database, rounds=3)


@pytest.mark.long
async def test_a_writer_that_stays_open_for_a_minute_holds_up_nobody(database: Database) -> None:
    """The same, for a minute of other people's changes."""
    await _with_open_writer(database, rounds=None)


async def _with_open_writer(database: Database, *, rounds: int | None) -> None:
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=100_000)) as sandbox:
        async with services(1, environment(database.dsn, sandbox.base_url)) as (worker,):
            await database.write("app_1", {"note": "earlier"})
            slow = await asyncpg.connect(database.dsn)
            transaction = slow.transaction()
            await transaction.start()
            await database.write("app_1", {"note": "open"}, conn=slow)
            await eventually(lambda: _synced_note(database, "earlier"))
            written = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if rounds else 60):
                    while rounds is None or written < rounds:
                        await database.write(f"app_other_{written % 10}", {"note": f"{written}"})
                        written += 1
                        expected = written + 1
                        await eventually(lambda expected=expected: _synced_count(database, expected))
            await transaction.commit()
            await eventually(lambda: _synced_note(database, "open"))
            await slow.close()
            assert await stop(worker) == 0
        assert sandbox.appointments["app_1"]["note"] == "open"


async def _synced_count(database: Database, at_least: int) -> bool:
    return (await database.states()).get("synced", 0) >= at_least


async def test_a_notification_wakes_the_service(database: Database) -> None:
    """LISTEN: a change is sent long before the next poll, also after LISTEN's connection was lost."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"WORKER__POLL_S": "600"} | DIRECT)
        async with services(1, env) as (worker,):
            await database.write("app_1", {"note": "first"})
            await eventually(lambda: _synced_note(database, "first"))
            await _cut_connections(database)
            await database.write("app_1", {"note": "second"})
            await eventually(lambda: _synced_note(database, "second"))
            assert await stop(worker) == 0


async def test_polling_finds_what_no_notification_announces(database: Database) -> None:
    """With NOTIFY switched off, the poll finds the change."""
    async with (
        Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox,
        services(1, environment(database.dsn, sandbox.base_url)) as (worker,),
    ):
        await eventually(lambda: database.value("SELECT count(*) FROM caspen_sync.worker"))
        conn = await asyncpg.connect(database.dsn)
        await conn.execute("SET caspen_sync.notify = 'off'")
        await database.write("app_1", {"note": "quiet"}, conn=conn)
        await conn.close()
        await eventually(lambda: _synced_note(database, "quiet"))
        assert await stop(worker) == 0
