"""`check --token`: one request for each account, out of the budget that all share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.canary import NOTE
from tests.support.checking import asked, holds, settings_for
from tests.support.claims import limits, registered, settle, stopped, the_claim
from tests.support.database import Database
from tests.support.processes import TOKEN
from tests.support.rawserver import answer, closed_port, raw_server, resetting, saying, silent
from worker import clock
from worker.caspen import NOBODY
from worker.check import Finding, Verdict, check
from worker.check.api import ask, take_slot
from worker.check.files import tokens
from worker.claims import PauseKind
from worker.config import Settings
from worker.sandbox import Sandbox, SandboxSettings

# Many commands, each a process: together they take most of a minute.
pytestmark = pytest.mark.long

FINE, HM, BAD, LEFT_OUT = Verdict.OK, Verdict.WARNING, Verdict.FAILED, Verdict.SKIPPED
RESTING = "SELECT count(*) FROM caspen_sync.rate_slot WHERE account = $1 AND free_at > now()"


def sandbox(**options: Any) -> Sandbox:
    return Sandbox(SandboxSettings(**{"tokens": (TOKEN,), "limit": 10} | options))


def settings(database: Database, base_url: str, accounts: Mapping[str, Any] | None = None) -> Settings:
    accounts = accounts or {"default": {"token": TOKEN, "rate_limit": 10}}
    return settings_for(database.dsn, base_url, accounts=accounts)


def told(findings: list[Finding]) -> list[Finding]:
    """What the API was asked for, and what came of it."""
    names = [finding.name for finding in findings]
    return findings[names.index("api") + 1 : names.index("listen")]


async def everything(database: Database) -> dict[str, Any]:
    """All rows of all our tables but the slots'."""
    tables = await database.rows("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'caspen_sync'")
    names = sorted({row["name"] for row in tables} - {"rate_slot"})
    return {name: await database.rows(f"SELECT x::text FROM caspen_sync.{name} x ORDER BY 1") for name in names}


async def test_an_accepted_token(database: Database) -> None:
    """One GET of an appointment that nobody has; a slot of the budget rests for it, longer than a window after the
    answer; nothing else is written."""
    await registered(database, limits(10, rate_window_s=60.0, rate_guard_s=0.5))
    await database.write("app_1", {"note": NOTE})
    before = await everything(database)
    async with sandbox() as api:
        accepted, limit, skew = told(await asked(settings(database, api.base_url)))
        (request,) = api.log
    holds(accepted, FINE, "account default: the API accepts the token")
    holds(limit, FINE, "10 requests in a window, as configured")
    holds(skew, FINE, "the API")
    assert (request.method, request.appointment, request.body, request.http_status) == ("GET", NOBODY, None, 404)
    assert request.answered_at is not None
    rested_until = await database.rows(
        "SELECT extract(epoch FROM free_at)::float8 AS at FROM caspen_sync.rate_slot WHERE free_at > now()"
    )
    assert len(rested_until) == 1
    assert rested_until[0]["at"] >= request.answered_at + 60.5
    assert await everything(database) == before


async def test_without_being_asked_to(database: Database) -> None:
    """Nothing is sent, no slot is taken, and it is said how to ask."""
    await registered(database)
    async with sandbox() as api:
        (accepted,) = told(await check(lambda: settings(database, api.base_url)))
        assert api.log == []
    holds(accepted, LEFT_OUT, "--token")
    assert await database.value(RESTING, "default") == 0


@pytest.mark.parametrize(("status", "options"), [(401, {"tokens": ("another",)}), (403, {"forbidden": (TOKEN,)})])
async def test_a_refused_token(database: Database, status: int, options: dict[str, Any]) -> None:
    """401 and 403: 77, with what to do; the account is not paused by it."""
    await registered(database)
    async with sandbox(**options) as api:
        accepted = told(await asked(settings(database, api.base_url)))[0]
    holds(accepted, BAD, f"account default: the API refused the token: {status}", "replace it")
    assert accepted.exit_code == 77
    assert TOKEN not in repr(accepted)
    assert await database.value("SELECT pause_kind FROM caspen_sync.account") is None


@pytest.mark.parametrize("kind", ["refused", "down", "rejected", "manual"])
async def test_a_paused_account(database: Database, kind: PauseKind) -> None:
    """It is asked for all the same, since a person wants to see the answer, and out of its budget; the pause stays."""
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    if kind == "manual":
        await database.pool.execute("UPDATE caspen_sync.account SET pause_kind = 'manual', paused_until = 'infinity'")
    else:
        await settle(store, stopped(await the_claim(store), kind, wait_s=600.0))
    before = await everything(database), await database.value(RESTING, "default")
    async with sandbox(tokens=("another",)) as api:
        found = await asked(settings(database, api.base_url))
        assert len(api.log) == 1
    holds(told(found)[0], BAD, "account default: the API refused the token: 401")
    assert (await everything(database), await database.value(RESTING, "default")) == (before[0], before[1] + 1)


async def test_a_throttled_account(database: Database) -> None:
    """The API said when to ask again: nothing is sent before."""
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    await settle(store, stopped(await the_claim(store), "throttled", wait_s=600.0))
    async with sandbox() as api:
        (accepted,) = told(await asked(settings(database, api.base_url)))
        assert api.log == []
    holds(accepted, LEFT_OUT, "the API wants to be left alone for a while (429)")


async def test_slots_for_several_who_ask(database: Database) -> None:
    """However many ask at once, for a paused account too, each slot is given once, and the reserve is kept."""
    await registered(database, limits(10, live_reserve=0.3))
    await database.pool.execute("UPDATE caspen_sync.account SET pause_kind = 'refused', paused_until = 'infinity'")

    async def take() -> float | str:
        async with database.pool.acquire() as conn:
            return await take_slot(conn, "default")

    taken = [slot for slot in await asyncio.gather(*(take() for _ in range(24))) if not isinstance(slot, str)]
    while not isinstance(slot := await take(), str):
        taken.append(slot)
    assert len(taken) == await database.value(RESTING, "default") == 7


async def test_no_budget(database: Database) -> None:
    """An account without slots, or with none but those kept for live changes, is not asked for."""
    async with sandbox() as api:
        (accepted,) = told(await asked(settings(database, api.base_url)))
        holds(accepted, LEFT_OUT, "no worker has registered it yet, so it has no budget; caspen-sync run --once")
        await registered(database, limits(10, live_reserve=0.1))
        await database.pool.execute("UPDATE caspen_sync.rate_slot SET free_at = 'infinity' WHERE slot > 1")
        (accepted,) = told(await asked(settings(database, api.base_url)))
        holds(accepted, LEFT_OUT, "no slot of its budget is free")
        assert api.log == []
    assert await database.value("SELECT free_at <= now() FROM caspen_sync.rate_slot WHERE slot = 1") is True


async def test_several_accounts(database: Database) -> None:
    """Each is asked for with its own token and out of its own budget; one of them is none of ours."""
    await registered(database, limits(10))
    await registered(database, limits(20), account="north")
    accounts = {
        "default": {"token": TOKEN, "rate_limit": 10},
        "north": {"token": "token-north-2f9c", "rate_limit": 20},
        "south": {"token_file": "/nowhere"},
    }
    async with sandbox(tokens=(TOKEN, "token-north-2f9c")) as api:
        found = await asked(settings(database, api.base_url, accounts))
        assert len({entry.token for entry in api.log}) == len(api.log) == 2
    accepted = [one for one in told(found) if one.name == "accepted"]
    assert [one.said for one in accepted] == [
        f"account {name}: the API accepts the token" for name in ("default", "north")
    ]
    limit = next(one for one in told(found) if one.name == "limit" and "north" in one.said)
    holds(limit, HM, "account north: the API grants 10 requests in a window, and 20", "accounts.north.rate_limit = 10")
    assert [await database.value(RESTING, name) for name in ("default", "north")] == [1, 1]


async def test_a_wrong_address(database: Database) -> None:
    """A 404 of somebody else's web server is no word about the token."""
    await registered(database)
    async with raw_server(saying(answer("404 Not Found", b"<html>"))) as other:
        (accepted,) = told(await asked(settings(database, other.base_url)))
    holds(accepted, BAD, "404, and not as the API says it", "is api.base_url right")
    assert accepted.exit_code == 78


async def test_an_answer_with_a_body(database: Database) -> None:
    """Should there be such an appointment, nothing of it is said; a clock that is far off is."""
    secret = "Mrs Miller has the flu"
    await registered(database)
    body = json.dumps({"id": NOBODY, "note": secret}).encode()
    headers = ("X-RateLimit-Limit: 10", "Date: Tue, 24 Nov 2020 20:00:00 GMT")
    async with raw_server(saying(answer("200 OK", body, *headers))) as api:
        found = await asked(settings(database, api.base_url))
        assert api.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    accepted, _, skew = told(found)
    holds(accepted, FINE, "accepts the token")
    holds(skew, HM, "ahead of the API", "a time server")
    assert secret not in repr(found)
    assert TOKEN not in repr(found)


async def test_no_answer(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, a reset and nobody there: 69, one request at most, and its slot rests for the worst case."""
    monkeypatch.setattr("worker.check.api.ASK_S", 0.5)
    await registered(database)
    async with raw_server(silent()) as api:
        (accepted,) = told(await asked(settings(database, api.base_url)))
        assert len(api.requests) == 1
    holds(accepted, BAD, "account default: no answer within 0.", "try again")
    assert accepted.exit_code == 69
    assert await database.value(RESTING, "default") == 1
    async with raw_server(resetting()) as api:
        (accepted,) = told(await asked(settings(database, api.base_url)))
        assert len(api.requests) == 1
    holds(accepted, BAD, "account default: the connection ended without an answer", "try again")
    (accepted,) = told(await asked(settings(database, f"http://127.0.0.1:{closed_port()}/v1")))
    holds(accepted, BAD, "Connection refused", "try again")


async def test_no_database() -> None:
    """Without a slot nothing is sent, and without a database there is none."""
    async with sandbox() as api:
        nowhere = settings_for(f"postgresql://127.0.0.1:{closed_port()}/clinic", api.base_url)
        (accepted,) = told(await asked(nowhere))
        assert api.log == []
    holds(accepted, LEFT_OUT, "the database was not reached")


async def test_a_slot_that_was_taken_too_long_ago() -> None:
    """What rests for a slot is counted from when it was taken: afterwards nothing is sent on it."""
    async with sandbox() as api:
        sound = settings_for(base_url=api.base_url)
        sources, _ = tokens(sound)
        (accepted,) = await ask(sound, sources, {"default": clock.now() - 7.0})
        assert api.log == []
    holds(accepted, BAD, "account default: no time left", "try again")


async def test_certificates_that_are_not_there(database: Database) -> None:
    """`api` tells of them; of the token nothing can be said."""
    await registered(database)
    bad = settings_for(database.dsn, api={"base_url": "https://localhost/v1", "ca_file": "/nowhere"})
    (accepted,) = told(await asked(bad))
    holds(accepted, LEFT_OUT, "account default: needs the api")
