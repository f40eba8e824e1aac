"""`caspen-sync run` as an operator meets it: real processes, a real Postgres, the sandbox over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

from tests.support.audit import assert_final_state, assert_no_overlap, assert_settled
from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment, services, stop
from tests.support.rawserver import Request, answer, raw_server
from tests.support.waiting import eventually
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings


async def test_changes_become_the_synced_state(database: Database) -> None:
    """Nulls, several changes of one appointment and undocumented answer fields: all arrive; a cron run says nothing."""
    for number in range(20):
        await database.write(f"app_{number % 7}", {"note": f"n{number}", "room_id": number})
    await database.write("app_1", {"note": None, "room_id": None})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        ended = await command("run", "--once", env=environment(database.dsn, sandbox.base_url))
        assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "", "")
        assert len(sandbox.log) == 7
        assert {entry.appointment: entry.body for entry in sandbox.log}["app_1"] == {"note": None, "room_id": None}
        await assert_settled(database)
        await assert_final_state(database, sandbox.appointments)
    resources = await database.rows("SELECT resource FROM caspen_sync.appointment")
    assert all("updated_at" in json.loads(row["resource"]) for row in resources)
    attempts = await database.rows("SELECT outcome, http_status FROM caspen_sync.attempt")
    assert [tuple(row) for row in attempts] == [("synced", 200)] * 7


async def test_a_breach_of_contract_costs_no_request(database: Database) -> None:
    """A body that breaks the contract parks with the field named; the appointment's other changes go out."""
    await database.write("app_1", {"note": "kept"})
    await database.write("app_1", {"room_id": "seven"})
    await database.write("app_2", {"note": 5})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        ended = await command("run", "--once", env=environment(database.dsn, sandbox.base_url))
        assert ended.exit_code == 65
        assert [(entry.appointment, entry.body) for entry in sandbox.log] == [("app_1", {"note": "kept"})]
    rows = await database.rows("SELECT state, attempts, last_error FROM caspen_sync.outbox ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("synced", 1, None),
        ("parked", 0, "breaks the API's contract: room_id: must be an integer"),
        ("parked", 0, "breaks the API's contract: note: must be a string"),
    ]
    assert "seven" not in ended.stderr


async def test_no_body_is_too_much_for_the_process(database: Database) -> None:
    """Bodies that are too deep, too long or too large to read park like any breach; everything else goes on."""
    monsters = [
        '{"note": ' + "[" * 3000 + "]" * 3000 + "}",
        '{"room_id": ' + "9" * 5000 + "}",
        '{"note": "' + "".join(map(chr, range(0x4E00, 0x9E00))) + '"}',
    ]
    for number, body in enumerate(monsters):
        await database.write(f"app_{number}", {"note": "before"})
        await database.pool.execute(
            "INSERT INTO caspen_sync.outbox (appointment_id, changes) VALUES ($1, $2)", f"app_{number}", body
        )
        await database.write(f"app_{number}", {"confirmed": True})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        ended = await command("run", "--once", env=environment(database.dsn, sandbox.base_url))
        assert ended.exit_code == 65
        assert "Traceback" not in ended.stderr
        assert [entry.body for entry in sandbox.log] == [{"note": "before", "confirmed": True}] * 3
    assert await database.states() == {"synced": 6, "parked": 3}


async def test_of_a_refused_fold_only_the_guilty_change_parks(database: Database) -> None:
    """The refused fold is sent again in parts, in order; the guilty change parks, the others are synced."""
    for number in range(1, 13):
        body = {"room_id": NO_SUCH_ROOM} if number == 7 else {"note": f"n{number}", "vehicle_id": number}
        await database.write("app_1", body)
    await database.write("app_2", {"note": "elsewhere"})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        ended = await command("run", "--once", env=environment(database.dsn, sandbox.base_url))
        assert ended.exit_code == 65
        await assert_settled(database)
        await assert_final_state(database, sandbox.appointments)
        assert_no_overlap(sandbox.log)
        assert len(sandbox.log) <= 12
    parked = await database.rows("SELECT changes, last_error FROM caspen_sync.outbox WHERE state = 'parked'")
    assert [(json.loads(row["changes"]), row["last_error"]) for row in parked] == [
        ({"room_id": NO_SUCH_ROOM}, "422 validation failed: room_id")
    ]
    assert str(NO_SUCH_ROOM) not in ended.stderr


async def test_an_appointment_that_is_not_there_parks_whole(database: Database) -> None:
    """404 refuses the address and not the body: one request, and the changes park together."""
    for number in range(5):
        await database.write("nobody", {"note": f"n{number}"})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        ended = await command("run", "--once", env=environment(database.dsn, sandbox.base_url))
        assert (ended.exit_code, len(sandbox.log)) == (65, 1)
    assert await database.states() == {"parked": 5}


async def test_without_coalescing_each_change_is_a_request(database: Database) -> None:
    """worker.coalesce = false: one request a change, in id order."""
    for number in range(5):
        await database.write("app_1", {"note": f"n{number}"})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"WORKER__COALESCE": "false"})
        assert (await command("run", "--once", env=env)).exit_code == 0
        assert [entry.body["note"] for entry in sandbox.log] == [f"n{number}" for number in range(5)]


async def test_a_revoked_token_charges_nobody_and_a_new_one_heals(database: Database, tmp_path: Path) -> None:
    """401: nothing parks, no attempt is charged, exit 77; a new token in the file is tried at once, though the next
    probe would be minutes away, and the changes are synced."""
    token_file = tmp_path / "token"
    token_file.write_text("revoked\n")
    for number in range(10):
        await database.write(f"app_{number}", {"note": f"n{number}"})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        settings = {"RETRY__PROBE_BASE_S": "600", "ACCOUNTS__DEFAULT__TOKEN_FILE": str(token_file)}
        env = environment(database.dsn, sandbox.base_url, settings)
        del env["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN"]
        for _ in range(2):
            ended = await command("run", "--once", env=env)
            assert ended.exit_code == 77
            assert "revoked" not in ended.stderr
        assert len(sandbox.log) <= 8
        assert await database.value("SELECT sum(attempts) FROM caspen_sync.outbox WHERE state = 'pending'") == 0
        assert await database.states() == {"pending": 10}

        token_file.write_text(TOKEN)
        assert (await command("run", "--once", env=env)).exit_code == 0
    assert await database.states() == {"synced": 10}
    assert await database.value("SELECT pause_kind FROM caspen_sync.account") is None


async def test_an_api_that_fails_leaves_work_and_an_attempt(database: Database) -> None:
    """503 for all: exit 75, the changes stay pending with the reason, and wait."""
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), faults={"http_503": 1.0})) as sandbox:
        env = environment(
            database.dsn, sandbox.base_url, {"RETRY__BACKOFF_BASE_S": "600", "RETRY__BACKOFF_MAX_S": "600"}
        )
        ended = await command("run", "--once", env=env)
        assert ended.exit_code == 75
        assert len(sandbox.log) == 3
    row = (await database.rows("SELECT state, attempts, last_error FROM caspen_sync.outbox"))[0]
    assert tuple(row) == ("pending", 3, "503 temporarily unavailable")


async def test_an_api_out_of_reach_is_told_apart(database: Database) -> None:
    """Nothing listens there: exit 69, no attempt charged, the slot free again."""
    await database.write("app_1", {"note": NOTE})
    env = environment(database.dsn, "http://127.0.0.1:1/v1", {"RETRY__BACKOFF_BASE_S": "600"})
    ended = await command("run", "--once", env=env)
    assert ended.exit_code == 69
    assert "127.0.0.1:1" in ended.stderr
    assert await database.value("SELECT attempts FROM caspen_sync.outbox") == 0
    assert await database.value("SELECT count(*) FROM caspen_sync.rate_slot WHERE free_at > clock_timestamp()") == 0


async def test_a_throttled_account_waits_and_charges_nobody(database: Database) -> None:
    """Somebody else used up the key: 429 pauses the account for as long as it says, and no change is charged."""
    for number in range(4):
        await database.write(f"app_{number}", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1, window_s=600)) as sandbox:
        ended = await command("run", "--once", env=environment(database.dsn, sandbox.base_url))
        assert ended.exit_code == 75
        assert sandbox.log[-1].throttled
    assert (await database.states())["pending"] >= 3
    assert await database.value("SELECT sum(attempts) FROM caspen_sync.outbox WHERE state = 'pending'") == 0
    waits = await database.value("SELECT extract(epoch FROM paused_until - clock_timestamp()) FROM caspen_sync.account")
    # The reset is a whole second, rounded up; the Date that it is held against is rounded down.
    assert 500 < waits <= 602


async def test_accounts_have_tokens_budgets_and_states_of_their_own(database: Database) -> None:
    """Two accounts, one refused: the other's changes of the same appointment id go through."""
    for account in ("north", "south"):
        await database.write("app_1", {"note": account}, account=account)
    async with Sandbox(SandboxSettings(tokens=("token-north",))) as sandbox:
        env = environment(
            database.dsn,
            sandbox.base_url,
            {"ACCOUNTS__NORTH__TOKEN": "token-north", "ACCOUNTS__SOUTH__TOKEN": "token-south"},
        )
        ended = await command("run", "--once", env=env)
        assert ended.exit_code == 77
        assert "south" in ended.stderr
        assert "north" not in ended.stderr
    rows = await database.rows("SELECT account, note FROM caspen_sync.appointment")
    assert [tuple(row) for row in rows] == [("north", "north")]


async def test_a_signal_drains_and_releases(database: Database) -> None:
    """SIGTERM in the middle of 50 requests: all are answered and written back, nothing stays leased, exit 0."""
    for number in range(200):
        await database.write(f"app_{number}", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, latency_s=0.8)) as sandbox:
        env = environment(database.dsn, sandbox.base_url, {"ACCOUNTS__DEFAULT__CONCURRENCY": "50"})
        async with services(1, env) as (worker,):
            await eventually(lambda: sum(entry.in_flight for entry in sandbox.log) == 50)
            assert await stop(worker) == 0
        assert not any(entry.in_flight for entry in sandbox.log)
        assert (await database.states())["synced"] == len(sandbox.log)
    assert await database.value("SELECT count(*) FROM caspen_sync.queue WHERE leased_until IS NOT NULL") == 0
    assert await database.value("SELECT sum(attempts) FROM caspen_sync.outbox WHERE state = 'pending'") == 0
    assert await database.value("SELECT count(*) FROM caspen_sync.worker") == 0


async def test_a_second_signal_stops_at_once(database: Database) -> None:
    """A second signal does not wait for the answers; what was on the wire is left to its lease, exit 75."""
    await database.write("app_1", {"note": NOTE})
    async with (
        Sandbox(SandboxSettings(tokens=(TOKEN,), latency_s=25)) as sandbox,
        services(1, environment(database.dsn, sandbox.base_url, {"API__TIMEOUT_S": "30"})) as (worker,),
    ):
        await eventually(lambda: len(sandbox.log) == 1)
        worker.send_signal(signal.SIGTERM)
        worker.send_signal(signal.SIGINT)  # another one: two equal signals at once arrive as one
        async with asyncio.timeout(10):
            assert await worker.wait() == 75
    assert await database.value("SELECT count(*) FROM caspen_sync.queue WHERE leased_until IS NOT NULL") == 1


async def test_an_answer_that_postgres_cannot_hold_holds_up_nobody(database: Database) -> None:
    """A NUL in an answer: the batch's other changes are written; the one concerned waits, and says why."""

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        odd = "\\u0000" if request.path.endswith("app_odd") else ""
        writer.write(answer("200 OK", b'{"id": "x", "extra": "%s"}' % odd.encode()))
        await writer.drain()
        writer.close()

    for number in range(6):
        await database.write(f"app_{number}", {"room_id": number})
    await database.write("app_odd", {"room_id": 7})
    async with raw_server(respond) as server:
        ended = await command("run", "--once", env=environment(database.dsn, server.base_url))
    assert ended.exit_code == 75
    assert "answer_not_storable" in ended.stderr
    assert await database.states() == {"synced": 6, "pending": 1}
    row = (await database.rows("SELECT attempts, last_error FROM caspen_sync.outbox WHERE state = 'pending'"))[0]
    assert tuple(row) == (1, "accepted, but the answer cannot be stored in Postgres")
