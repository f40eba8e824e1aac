"""`caspen-sync attempts`: the log of the requests that were made for one appointment."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.canary import NOTE
from tests.support.claims import accepted, registered, settle, settlement, the_claim
from tests.support.database import Database
from tests.support.parking import offline
from tests.support.processes import TOKEN, command, environment
from tests.support.rawserver import Request, answer, raw_server
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings


async def test_order_and_limit(database: Database) -> None:
    """Newest first, and at most as many as were asked for; the changes that each request carried stand with it."""
    store = await registered(database)
    first = await database.write("app_1", {"note": NOTE})
    await settle(store, settlement(await the_claim(store), due_in_s=0.0))
    second = await database.write("app_1", {"room_id": 7})
    await settle(store, settlement(await the_claim(store), due_in_s=0.0))
    await settle(store, accepted(await the_claim(store)))
    await database.write("app_2", {"note": NOTE})
    await settle(store, accepted(await the_claim(store)))
    newest = [[first, second], [first, second], [first]]
    for limit in ("2", "50"):
        ended = await command("attempts", "app_1", "--limit", limit, "--json", env=offline(database))
        shown = json.loads(ended.stdout)
        assert [one["change_ids"] for one in shown] == newest[: int(limit)]
    assert [one["started_at"] for one in shown] == sorted((one["started_at"] for one in shown), reverse=True)
    assert {one["account"] for one in shown} == {"default"}


@pytest.mark.long
async def test_what_stands_in_the_log(database: Database) -> None:
    """Outcome, status, how long it took, the error and the worker, for a person and for a program; no body."""
    change = await database.write("app_1", {"note": NOTE, "room_id": NO_SUCH_ROOM})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(database.dsn, sandbox.base_url)
        assert (await command("run", "--once", env=env)).exit_code == 65
        later = await database.write("app_1", {"note": NOTE})
        assert (await command("run", "--once", env=env)).exit_code == 0
    ended = await command("attempts", "app_1", "--json", env=offline(database))
    newest, oldest = json.loads(ended.stdout)
    assert set(newest) == {
        *("account", "started_at", "duration_ms", "outcome", "http_status", "change_ids", "error", "worker")
    }
    assert (newest["outcome"], newest["http_status"], newest["change_ids"], newest["error"]) == (
        *("synced", 200, [later], None),
    )
    assert (oldest["outcome"], oldest["http_status"], oldest["change_ids"], oldest["error"]) == (
        *("rejected", 422, [change], "422 validation failed: room_id"),
    )
    assert 0 < newest["duration_ms"] < 10_000
    ended = await command("attempts", "app_1", env=offline(database))
    header, first, second = ended.stdout.splitlines()
    assert header.split() == ["AT", "OUTCOME", "STATUS", "MS", "CHANGES", "WORKER", "ERROR"]
    assert first.split()[2:4] == ["synced", "200"]
    assert second.endswith("422 validation failed: room_id")


@pytest.mark.long
async def test_accounts_are_apart(database: Database) -> None:
    """The same id in two accounts: both are listed, or the one that is asked for; an unknown one has no requests."""
    for account in ("default", "north"):
        store = await registered(database, account=account)
        await database.write("-x", {"note": NOTE}, account=account)
        await store.take_in([account])
        (held,) = await store.claim({account: 1}, timeout_s=30, lease_s=60, max_changes=10)
        await settle(store, accepted(held))
    both = await command("attempts", "--json", "--", "-x", env=offline(database))
    assert [one["account"] for one in json.loads(both.stdout)] == ["north", "default"]
    one = await command("attempts", "--json", "--account", "north", "--", "-x", env=offline(database))
    assert [attempt["account"] for attempt in json.loads(one.stdout)] == ["north"]
    ended = await command("attempts", "app_9", env=offline(database))
    assert (ended.exit_code, ended.stdout) == (0, "no request was made for app_9\n")
    ended = await command("attempts", "app_9", "--json", env=offline(database))
    assert json.loads(ended.stdout) == []


@pytest.mark.long
async def test_many_changes_of_one_request(database: Database) -> None:
    """A person sees the first, the last and how many; a program all of them."""
    store = await registered(database)
    ids = [await database.write("app_1", {"room_id": number}) for number in range(6)]
    await settle(store, accepted(await the_claim(store)))
    ended = await command("attempts", "app_1", env=offline(database))
    assert f"{ids[0]},…,{ids[-1]} (6)" in ended.stdout
    ended = await command("attempts", "app_1", "--json", env=offline(database))
    assert json.loads(ended.stdout)[0]["change_ids"] == ids


async def test_an_answer_that_differs(database: Database) -> None:
    """Accepted, and yet the answer says otherwise: synced, with the fields in the log of attempts, an event, and the
    count in the run's last event. What is the same in other words does not count."""

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        said = {"id": "x", "starts_at": "2024-01-01T10:00:00Z", "ends_at": "2024-01-01T11:00:00Z", "confirmed": True}
        said |= {"note": "another one"} if request.path.endswith("app_1") else {}
        writer.write(answer("200 OK", json.dumps(said).encode()))
        await writer.drain()
        writer.close()

    sent = {"starts_at": "2024-01-01T11:00:00+01:00", "note": NOTE, "confirmed": True, "room_id": 7}
    await database.write("app_1", sent | {"ends_at": "2024-01-01T11:00:01Z"})
    await database.write("app_2", sent)
    async with raw_server(respond) as server:
        ended = await command("run", "--once", "--log-level", "debug", env=environment(database.dsn, server.base_url))
    assert ended.exit_code == 0
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    (differs,) = [event for event in events if event["event"] == "answer_differs"]
    assert (differs["appointment_id"], sorted(differs["fields"])) == ("app_1", ["ends_at", "note"])
    assert (events[-1]["event"], events[-1]["mismatches"]) == ("worker_stopped", 1)
    (one,) = json.loads((await command("attempts", "app_1", "--json", env=offline(database))).stdout)
    assert one["outcome"] == "synced"
    assert "note" in one["error"]
    assert "ends_at" in one["error"]
    assert "starts_at" not in one["error"]
    (other,) = json.loads((await command("attempts", "app_2", "--json", env=offline(database))).stdout)
    assert other["error"] is None
    assert await database.states() == {"synced": 2}
