"""/livez and /readyz: what makes a service unready, what does not, and that it is alive through all of it."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.dark import proxy_to
from tests.support.database import Database
from tests.support.outages import clinic
from tests.support.processes import TOKEN, command
from tests.support.servers import Server, looked_into
from tests.support.web import get, listening_here, web
from worker.pulse import LONGEST_STEP_S, Pulse
from worker.web.health import liveness

REFUSED = "failed account default: the API refused its token (401 "


async def test_ready(database: Database) -> None:
    """Everything that is looked at is named; a HEAD is enough for a load balancer."""
    async with clinic(database) as one, web(one.env) as service:
        page = await service.turns("/readyz", 200, "ok start")
        assert page.text == "ok database\nok schema\nok account default\nok start\n"
        assert (await service.get("/readyz", method="HEAD")).status == 200
        assert (await service.get("/livez")).text == "caspen-sync is alive\n"
        await one.stopped(service.service)


@pytest.mark.long
@pytest.mark.alone
async def test_a_refused_token(database: Database, tmp_path: Path) -> None:
    """Within two seconds of the refusal it is not ready, and says which account and why; a new token mends it."""
    token_file = tmp_path / "token"
    token_file.write_text("test-token-0000")
    async with clinic(database, ACCOUNTS__DEFAULT__TOKEN_FILE=str(token_file)) as one:
        del one.env["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN"]
        async with web(one.env) as service:
            await service.turns("/readyz", 200, "ok account default")
            await one.write(1)
            await service.service.says("account_paused")
            page = await service.turns("/readyz", 503, REFUSED, limit_s=2)
            assert "ok database\nok schema\n" in page.text
            assert (await service.get("/livez")).status == 200
            token_file.write_text(TOKEN)
            await one.all_synced()
            await service.turns("/readyz", 200, "ok account default", limit_s=2)
            await one.stopped(service.service)


async def test_other_pauses_are_no_reason(database: Database) -> None:
    """Accounts that are paused by hand, throttled, or whose API is down or rejects everything, are ready beside one
    that is refused."""
    kinds = ("manual", "throttled", "down", "rejected", "refused")
    tokens = {f"ACCOUNTS__{kind.upper()}__TOKEN": TOKEN for kind in kinds}
    async with clinic(database, **tokens) as one, web(one.env) as service:
        await service.turns("/readyz", 200, "ok account refused")
        await database.pool.execute(
            """
            UPDATE caspen_sync.account SET pause_kind = account, paused_until = now() + interval '1 hour'
            WHERE account = ANY ($1)
            """,
            kinds,
        )
        page = await service.turns("/readyz", 503, "failed account refused: ")
        for kind in kinds[:-1]:
            assert f"ok account {kind}\n" in page.text
        await one.stopped(service.service)


@pytest.mark.long
@pytest.mark.alone
async def test_a_database_that_goes_away_and_comes_back(server: Server) -> None:
    """Alive all the time; not ready, and metrics of this process only, while the database is away; then all is back."""
    async with looked_into(server.dsn()) as database, clinic(database) as one, web(one.env) as service:
        await one.write(3)
        await one.all_synced()
        await service.turns("/readyz", 200, "ok start")
        assert "caspen_sync_backlog_changes" in (await service.scrape()).families()
        await server.stop()
        await service.turns("/readyz", 503, "failed database: ", limit_s=2)
        assert (await service.get("/livez")).status == 200

        await service.turns("/metrics", 200, "caspen_sync_database_up 0.0", limit_s=8)  # a reading is good for 5 s
        began = time.monotonic()
        scrape = await service.scrape()
        assert time.monotonic() - began < 1
        assert scrape.value("caspen_sync_changes_total", state="synced") == 3
        assert "caspen_sync_backlog_changes" not in scrape.families()

        await server.start()
        await service.turns("/readyz", 200, "ok database", limit_s=10)
        await service.turns("/metrics", 200, "caspen_sync_database_up 1.0", limit_s=10)
        assert (await service.scrape()).value("caspen_sync_backlog_changes", lane="live") == 0
        assert (await service.get("/livez")).status == 200
        await one.stopped(service.service)


@pytest.mark.long
@pytest.mark.alone
async def test_a_database_that_goes_dark(server: Server) -> None:
    """A database that says nothing any more makes nobody wait for more than five seconds, and of many scrapes one."""
    port = urlsplit(server.dsn()).port
    assert port
    async with (
        proxy_to(port) as proxy,
        looked_into(server.dsn()) as database,
        clinic(database, dsn=server.dsn(port=proxy.port)) as one,
        web(one.env) as service,
    ):
        await service.turns("/readyz", 200, "ok start")
        proxy.dark_for_new = True
        proxy.go_dark()
        await service.turns("/readyz", 503, "failed database: no answer within 3 s", limit_s=10)
        began = time.monotonic()
        assert (await service.get("/readyz")).status == 503
        assert time.monotonic() - began < 5
        began = time.monotonic()
        for _ in range(5):
            await service.scrape()
        assert time.monotonic() - began < 5
        assert (await service.get("/livez")).status == 200


async def test_a_schema_that_is_another(database: Database) -> None:
    """A schema that is newer than the program is named as what it is."""
    async with clinic(database) as one, web(one.env) as service:
        await service.turns("/readyz", 200, "ok schema")
        await database.pool.execute("INSERT INTO caspen_sync.migration (number, name) VALUES (9999, 'later')")
        page = await service.turns("/readyz", 503, "failed schema: the schema is at migration 9999")
        assert "ok database\n" in page.text
        await one.stopped(service.service)


async def test_a_part_that_is_late() -> None:
    """A part of the loop that did not keep its word is named with 503, and no longer once it is heard of again."""
    now = 0.0
    pulse = Pulse(now=lambda: now)
    async with listening_here({"/livez": liveness(pulse)}) as port:
        url = f"http://127.0.0.1:{port}/livez"
        pulse.beat("loop", rests_s=5)
        pulse.beat("write_back")
        assert (await get(url)).status == 200
        now = LONGEST_STEP_S + 1
        page = await get(url)
        assert (page.status, page.text) == (503, "caspen-sync is late: write_back\n")
        now = LONGEST_STEP_S + 6
        assert (await get(url)).text == "caspen-sync is late: loop, write_back\n"
        pulse.beat("loop")
        pulse.rest("write_back")
        assert (await get(url)).status == 200


async def test_a_loop_that_is_stuck(database: Database) -> None:
    """A process that does not turn does not answer: whoever asks with a time limit sees it."""
    async with clinic(database) as one, web(one.env) as service:
        service.service.process.send_signal(signal.SIGSTOP)
        with pytest.raises(asyncio.TimeoutError):
            await get(f"http://{service.address}/livez", limit_s=0.5)
        service.service.process.send_signal(signal.SIGCONT)
        await service.turns("/livez", 200, "alive")
        await one.stopped(service.service)


@pytest.mark.long
async def test_a_pause_by_hand(database: Database) -> None:
    """`caspen-sync pause` shows as a gauge, at once, and in no other."""
    async with clinic(database) as one, web(one.env) as service:
        await service.turns("/readyz", 200, "ok start")
        assert (await command("pause", "default", env=one.env)).exit_code == 0
        await service.turns(
            "/metrics", 200, 'caspen_sync_account_paused{account="default",kind="manual"} 1.0', limit_s=8
        )
        paused = (await service.scrape()).values("caspen_sync_account_paused", account="default")
        assert paused == {("throttled",): 0, ("down",): 0, ("rejected",): 0, ("refused",): 0, ("manual",): 1}
        await one.stopped(service.service)
