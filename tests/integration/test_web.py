"""The service's web address: who is answered, who is cut, and that none of them holds up the work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support import canary
from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.outages import clinic, watched
from tests.support.processes import command, environment, stop
from tests.support.rawserver import closed_port
from tests.support.waiting import eventually
from tests.support.web import get, held, listening_here, said_to, web
from worker.sandbox import Sandbox
from worker.web import server
from worker.web.server import Page, plain

NOWHERE = "http://127.0.0.1:1/v1"
PAGE_TOKEN = "page-token-5f0e1c"


async def _well(_: object) -> object:
    return plain(200, "well")


async def _broken(_: object) -> object:
    raise ValueError(NOTE)


GET_WELL = b"GET /well HTTP/1.1\r\nHost: a\r\n\r\n"
WELL: Mapping[str, Page] = {"/well": _well, "/broken": _broken}  # type: ignore[dict-item]


async def test_what_is_answered() -> None:
    """Pages that there are, by GET and HEAD; anything else is 404 or 405. All of it is plain text that nothing keeps or
    guesses at, and does not say what it runs on."""
    async with listening_here(WELL) as port:
        url = f"http://127.0.0.1:{port}"
        for method, path, status, text in (
            ("GET", "/well", 200, "well\n"),
            ("GET", "/well?a=1", 200, "well\n"),
            ("HEAD", "/well", 200, ""),
            ("GET", "/", 404, "no such page\n"),
            ("POST", "/", 404, "no such page\n"),
            ("GET", "/well/../well/", 404, "no such page\n"),
            ("POST", "/well", 405, "only GET and HEAD\n"),
            ("DELETE", "/well", 405, "only GET and HEAD\n"),
            ("OPTIONS", "/well", 405, "only GET and HEAD\n"),
        ):
            page = await get(f"{url}{path}", method=method)
            assert (page.status, page.text) == (status, text), (method, path)
            assert page.headers["Server"] == "caspen-sync"
            assert page.headers["X-Content-Type-Options"] == "nosniff"
            assert page.headers["Cache-Control"] == "no-store"
            assert page.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert page.headers["Connection"] == "close"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /well HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /well HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /well HTTP/1.1\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
    ],
    ids=["tls", "version", "line", "field", "fields"],
)
async def test_what_is_no_http_is_refused_and_not_logged(request_bytes: bytes) -> None:
    """Garbage, and what is too long, is 400 in two words: nothing of it is quoted, and no log fills up with it."""
    async with listening_here(WELL) as port:
        with capture_logs() as logs:
            answer = await said_to(port, request_bytes)
            assert answer.startswith(b"HTTP/1.")
            assert b" 400 Bad Request\r\n" in answer
            assert answer.endswith(b"\r\n\r\nbad request\n")
            assert b"Server: caspen-sync\r\n" in answer
        assert not logs


async def test_a_fault_of_ours() -> None:
    """500 that tells nothing, and a log event with places but without the message, which could quote a body."""
    async with listening_here(WELL) as port:
        with capture_logs() as logs:
            page = await get(f"http://127.0.0.1:{port}/broken")
        assert (page.status, page.text) == (500, "a fault of caspen-sync itself; its log says where\n")
        (event,) = logs
        assert (event["event"], event["log_level"], event["error"]) == ("http_failed", "error", "ValueError")
        assert NOTE not in str(event)


async def test_whoever_is_slow_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a head that never ends, nor silence, nor somebody who does not read keeps a connection for long."""
    monkeypatch.setattr(server, "CONNECTION_S", 0.2)
    async with listening_here(WELL) as port:
        began = time.monotonic()
        answers = await asyncio.gather(*(said_to(port, head) for head in (b"", b"GET /well HTTP/1.1\r\nHost:")))
        assert answers == [b"", b""]
        assert 0.15 < time.monotonic() - began < 10  # of the 15 s that it would be


async def test_the_end_waits_for_no_page() -> None:
    """One that takes for ever to make is given up soon after it is asked to end."""
    begun = asyncio.Event()

    async def page(_: object) -> object:
        begun.set()
        return await asyncio.Event().wait()

    async with asyncio.timeout(20), contextlib.AsyncExitStack() as asking, listening_here({"/well": page}) as port:
        await asking.enter_async_context(held(port, GET_WELL))
        await begun.wait()


async def test_connections_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """One more than there may be is closed at once, without a word in the log; when the others are gone, there is room
    again."""
    async with listening_here(WELL) as port:
        async with contextlib.AsyncExitStack() as slow:
            for _ in range(server.MOST_CONNECTIONS):
                await slow.enter_async_context(held(port))
            assert await said_to(port, GET_WELL) == b""
            assert not caplog.records

        async def answered() -> bool:
            with contextlib.suppress(OSError):
                return (await said_to(port, GET_WELL)).endswith(b"well\n")
            return False

        await eventually(answered)


@pytest.mark.long
async def test_an_address_that_is_taken(database: Database) -> None:
    """A second service on one address ends with 78 and one line that says which, why and what to do; given another
    address, or none, by flag, it runs."""
    async with clinic(database) as one, web(one.env) as first:
        taken = one.env | {"CASPEN_SYNC_HTTP__LISTEN": first.address}
        ended = await command("run", "--log-level", "warning", env=taken)
        assert (ended.exit_code, ended.stdout) == (78, "")
        assert ended.stderr == (
            f"caspen-sync: http.listen: cannot listen on {first.address}: address already in use; each service on a "
            'host needs an address of its own: set http.listen to another one, or to "" to go without\n'
        )
        async with web(taken, "--listen", "127.0.0.1:0") as second:
            assert second.port != first.port
            assert (await second.get("/livez")).status == 200
            assert await stop(second.service.process) == 0
        async with watched(taken, "--listen", "") as silent:
            await one.write(1)
            await eventually(lambda: silent.events("worker_started"))
            assert await stop(silent.process) == 0
            assert not silent.events("http_listening")


@pytest.mark.parametrize(
    ("address", "why"),
    [("192.0.2.1:9464", "cannot assign requested address"), ("nowhere.invalid:9464", "this name is not known")],
)
async def test_an_address_that_cannot_be_had(database: Database, address: str, why: str) -> None:
    """Not this host's, or no name: 78, with the reason and the mend."""
    env = environment(database.dsn, NOWHERE, {"HTTP__TOKEN": PAGE_TOKEN})
    ended = await command("run", "--listen", address, "--log-level", "error", env=env)
    assert ended.exit_code == 78
    assert ended.stderr == (
        f"caspen-sync: http.listen: cannot listen on {address}: {why}; set http.listen to an address of this host, "
        'such as 127.0.0.1:9464, or to "" to go without\n'
    )


@pytest.mark.parametrize("by", ["flag", "setting"])
async def test_other_hosts_may_not_look_without_a_token(by: str) -> None:
    """Beyond loopback without a token the service ends with 78 and one line, which says where, why and what to do. It
    has asked neither the database, which is not there, nor for the address, which is not this host's."""
    args, settings = (["--listen", "192.0.2.1:9464"], {}) if by == "flag" else ([], {"HTTP__LISTEN": "192.0.2.1:9464"})
    ended = await command("run", *args, env=environment("postgresql://127.0.0.1:1/clinic", NOWHERE, settings))
    assert (ended.exit_code, ended.stdout) == (78, "")
    assert ended.stderr == (
        "caspen-sync: http.listen: other hosts can reach 192.0.2.1:9464, and without a token all of them could look; "
        "set http.token_file, or listen on 127.0.0.1:9464\n"
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "http.token_file: cannot read {file}: No such file or directory"),
        ("\n", "http.token_file ({file}): is empty; make one: openssl rand -hex 24"),
        ("short-4be2", "http.token_file ({file}): must have 16 characters or more; make one: openssl rand -hex 24"),
    ],
)
async def test_a_page_token_that_cannot_be_asked_for(tmp_path: Path, content: str | None, why: str) -> None:
    """A token that is set, and is missing or could be guessed, is 78 and one line on loopback too."""
    file = tmp_path / "page-token"
    if content is not None:
        canary.sing(content.strip() or PAGE_TOKEN)
        file.write_text(content)
    settings = {"HTTP__LISTEN": "127.0.0.1:0", "HTTP__TOKEN_FILE": str(file)}
    ended = await command("run", env=environment("postgresql://127.0.0.1:1/clinic", NOWHERE, settings))
    assert (ended.exit_code, ended.stdout) == (78, "")
    assert ended.stderr == f"caspen-sync: {why.format(file=file)}\n"


async def test_other_hosts_may_come_with_a_token(database: Database, tmp_path: Path) -> None:
    """With a token it listens for other hosts. That is read again with the accounts' ones: when its file is no good any
    more the log says so once, and names no account, and the work goes on; also at SIGHUP."""
    file = tmp_path / "page-token"
    file.write_text(PAGE_TOKEN)
    canary.sing(PAGE_TOKEN)
    async with clinic(database) as one:
        env = one.env | {"CASPEN_SYNC_HTTP__LISTEN": "0.0.0.0:0", "CASPEN_SYNC_HTTP__TOKEN_FILE": str(file)}
        async with web(env) as service:
            assert service.address.startswith("0.0.0.0:")
            assert (await get(f"http://127.0.0.1:{service.port}/livez")).status == 200
            file.unlink()
            await service.service.says("token_unreadable", "http.token_file: cannot read")
            service.service.process.send_signal(signal.SIGHUP)
            await eventually(lambda: service.service.events("tokens_read_again"))
            await one.write(1)
            await one.all_synced()
            (said,) = service.service.events("token_unreadable")
            assert said["account"] is None
            await one.stopped(service.service)


@pytest.mark.parametrize(
    ("args", "exit_code", "words"),
    [
        (("--listen", "nonsense"), 78, "http.listen: must be HOST:PORT"),
        (("--once", "--listen", "127.0.0.1:0"), 64, "run: --listen does not go with --once"),
    ],
)
async def test_a_flag_that_makes_no_sense(args: tuple[str, ...], exit_code: int, words: str) -> None:
    """One line that names it."""
    ended = await command("run", *args, env=environment("", NOWHERE))
    assert (ended.exit_code, len(ended.stderr.splitlines())) == (exit_code, 1)
    assert words in ended.stderr


@pytest.mark.long
async def test_one_run_does_not_listen(database: Database) -> None:
    """run --once is no service: an address that is taken is none of its business."""
    async with clinic(database) as one, web(one.env) as first:
        env = one.env | {"CASPEN_SYNC_HTTP__LISTEN": first.address}
        assert (await command("run", "--once", env=env)).exit_code == 0


@pytest.mark.long
@pytest.mark.parametrize(
    "settings", [{}, {"TOKEN_FILE": "/nowhere"}, {"TOKEN": "short"}], ids=["none", "file", "short"]
)
async def test_one_run_asks_for_no_token(database: Database, settings: Mapping[str, str]) -> None:
    """Nor are an address that others reach, and the page's token, its business, nor that of those who look."""
    async with clinic(database) as one:
        values = {"LISTEN": "0.0.0.0:0", **settings}
        env = one.env | {f"CASPEN_SYNC_HTTP__{name}": value for name, value in values.items()}
        await one.write(1)
        ended = await command("run", "--once", env=env)
        assert (ended.exit_code, ended.stderr) == (0, "")
        assert set(await database.states()) == {"synced"}
        assert (await command("status", env=env)).exit_code == 0


async def test_a_drain_is_answered_for_and_not_held_up(database: Database) -> None:
    """Told to stop with a request on the wire: alive, not ready, and it says why, until the work is done. Then it ends,
    whoever holds connections open: idle ones, half a request, one that was answered."""
    async with clinic(database, latency_s=1.0) as one, web(one.env) as service:
        await one.write(1)
        await one.on_the_wire(1)
        async with contextlib.AsyncExitStack() as held_open:
            for head in (b"", b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nX-Slow:"):
                for _ in range(20):
                    await held_open.enter_async_context(held(service.port, head))
            service.service.process.send_signal(signal.SIGTERM)
            page = await service.turns("/readyz", 503, "failed draining: told to stop; it finishes what is on the wire")
            assert "ok database" in page.text
            assert (await service.get("/livez")).status == 200
            assert (await service.scrape()).value("caspen_sync_requests_in_flight", account="default") == 1
            await one.all_synced()
            began = time.monotonic()
            assert (await service.service.ends()).exit_code == 0
            took_s = time.monotonic() - began
            assert took_s < 10  # of the 15 s for which a connection may stay open


async def test_it_listens_before_the_work_begins(database: Database) -> None:
    """A service that has not registered its accounts yet is alive, and not ready."""
    async with clinic(database) as one:
        holder = await database.pool.acquire()
        await holder.execute("BEGIN; LOCK TABLE caspen_sync.account IN SHARE MODE")
        async with web(one.env) as service:
            await service.turns("/readyz", 503, "failed start: the accounts are not registered yet")
            assert (await service.get("/livez")).status == 200
            await holder.execute("ROLLBACK")
            await service.turns("/readyz", 200, "ok start", limit_s=10)
            await one.stopped(service.service)
        await database.pool.release(holder)


@pytest.mark.long
async def test_without_an_address_nothing_of_it_is_imported(database: Database) -> None:
    """A service with http.listen = "" does not load the web server."""
    async with Sandbox() as sandbox:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "importtime", "-m", "worker", "run", "--listen", ""),
            env=environment(database.dsn, sandbox.base_url, {"HTTP__LISTEN": f"127.0.0.1:{closed_port()}"}),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        lines: list[str] = []
        assert process.stderr
        async with asyncio.timeout(30):
            while line := (await process.stderr.readline()).decode():
                lines.append(line)
                if '"worker_started"' in line:
                    break
            process.terminate()
            _, rest = await process.communicate()
    text = "".join(lines) + rest.decode()
    assert " worker.service\n" in text
    assert " worker.web" not in text
