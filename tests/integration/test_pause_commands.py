"""`caspen-sync pause` and `resume`: one account, by hand, in every process."""

from __future__ import annotations

import json

import pytest

from tests.support.canary import NOTE
from tests.support.claims import claim, registered, settle, stopped, the_claim
from tests.support.database import Database
from tests.support.parking import offline
from tests.support.processes import DIRECT, TOKEN, command, environment, services
from tests.support.waiting import eventually
from worker.claims import PauseKind
from worker.sandbox import Sandbox, SandboxSettings


@pytest.mark.long
async def test_a_running_service(database: Database) -> None:
    """A pause stops its requests, though changes come in; a resume starts them at once, though it polls once in ten
    minutes. Another account goes on all the time."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN, "token-north"), limit=1000)) as sandbox:
        settings = {"ACCOUNTS__NORTH__TOKEN": "token-north", "WORKER__POLL_S": "600"} | DIRECT
        async with services(1, environment(database.dsn, sandbox.base_url, settings)):
            await database.write("app_0", {"note": NOTE})
            await eventually(lambda: len(sandbox.log) == 1, what="the first request")
            assert (await command("pause", "default", "--reason", "audit", env=offline(database))).exit_code == 0
            for number in range(1, 4):
                await database.write(f"app_{number}", {"note": NOTE})
            await database.write("app_n", {"note": NOTE}, account="north")
            await eventually(lambda: len(sandbox.log) == 2, what="the other account's request")
            arrivals = "SELECT count(*) = 0 FROM caspen_sync.arrival"
            await eventually(lambda: database.value(arrivals), what="the changes are taken in")
            status = await command("status", env=offline(database))
            assert "audit; caspen-sync resume default" in status.stdout
            assert [entry.appointment for entry in sandbox.log] == ["app_0", "app_n"]
            assert (await command("resume", "default", env=offline(database))).exit_code == 0
            await eventually(lambda: len(sandbox.log) == 5, what="the rest")


async def test_what_is_on_the_wire_finishes(database: Database) -> None:
    """A pause takes nothing away from a claim that is out: it settles, and it gets no slot for a retry."""
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    held = await the_claim(store)
    await command("pause", "default", env=offline(database))
    assert await store.take_slot(held, timeout_s=30) is None
    assert await settle(store, stopped(held, "throttled", wait_s=0.0)) == []
    assert await database.value("SELECT pause_kind FROM caspen_sync.account") == "manual"
    assert await claim(store, 10) == []


async def test_one_run(database: Database) -> None:
    """75 with who, why and how to go on; afterwards 0."""
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(database.dsn, sandbox.base_url)
        ended = await command("pause", "default", "--reason", "stock-taking", env=env | {"SUDO_USER": "ann"})
        assert ended.stdout == (
            "account default is paused until caspen-sync resume default; requests on the wire finish\n"
        )
        ended = await command("run", "--once", env=env)
        assert ended.exit_code == 75
        assert "account default is paused by hand (ann@" in ended.stderr
        assert ": stock-taking); caspen-sync resume default\n" in ended.stderr
        assert len(sandbox.log) == 0
        ended = await command("resume", "default", "--reason", "done", env=env)
        assert ended.stdout.startswith("account default goes on; it was paused: manual (ann@")
        assert (await command("run", "--once", env=env)).exit_code == 0
    rows = await database.rows("SELECT action, reason, change_id FROM caspen_sync.intervention ORDER BY id")
    assert [tuple(row) for row in rows] == [("pause", "stock-taking", None), ("resume", "done", None)]


@pytest.mark.long
async def test_accounts_that_are_not_there(database: Database) -> None:
    """An account that is configured, but that no worker has worked for, can be paused, and stays so when one comes; one
    that is neither configured nor known is named, with those that there are."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(database.dsn, sandbox.base_url)
        ended = await command("resume", "default", env=env)
        assert (ended.exit_code, ended.stdout) == (0, "account default was not paused\n")
        assert (await command("pause", "default", env=env)).exit_code == 0
        await database.write("app_1", {"note": NOTE})
        assert (await command("run", "--once", env=env)).exit_code == 75
    await registered(database, account="north")
    for verb in ("pause", "resume"):
        ended = await command(verb, "nowhere", env=offline(database))
        assert (ended.exit_code, ended.stdout) == (64, "")
        assert ended.stderr == "caspen-sync: there is no account nowhere; the accounts are default, north\n"
    assert (await command("pause", "north", env=offline(database))).exit_code == 0


@pytest.mark.parametrize(
    "kind", ["refused", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("down", "throttled"))]
)
async def test_resume_ends_any_pause(database: Database, kind: PauseKind) -> None:
    """What the API paused is resumed too, and what it was is said and written down; then there is nothing to resume."""
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    await settle(store, stopped(await the_claim(store), kind, wait_s=600))
    assert await claim(store, 10) == []
    ended = await command("resume", "default", env=offline(database))
    assert ended.stdout == f"account default goes on; it was paused: {kind} ({kind}, says the API)\n"
    (held,) = await claim(store, 10)
    assert held.probing is None
    ended = await command("resume", "default", env=offline(database))
    assert ended.stdout == "account default was not paused\n"
    assert await database.value("SELECT count(*) FROM caspen_sync.intervention WHERE action = 'resume'") == 1


@pytest.mark.long
async def test_a_pause_by_hand_outranks_the_others(database: Database) -> None:
    """It replaces a pause that would end by itself; pausing again replaces the reason."""
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    await settle(store, stopped(await the_claim(store), "down", wait_s=0.1))
    for reason in ("first", "odd 'quotes\" % $1 \\ ☃"):
        assert (await command("pause", "default", "--reason", reason, env=offline(database))).exit_code == 0
    ended = await command("status", "--json", env=offline(database))
    (account,) = json.loads(ended.stdout)["accounts"]
    assert (account["pause_kind"], account["paused_for_s"]) == ("manual", None)
    assert account["pause_reason"].endswith(": odd 'quotes\" % $1 \\ ☃")
    assert await claim(store, 10) == []
