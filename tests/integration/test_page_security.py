"""Who may do what on the status page, and what other pages in the same browser may not: forged forms, other names,
foreign origins, stolen and old sessions. After each refusal nothing has changed."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from tests.support import canary
from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.outages import clinic
from tests.support.parking import parked
from tests.support.statuspage import PAGE_TOKEN, WITH_TOKEN, Surgery, Visitor, surgery
from tests.support.waiting import eventually
from tests.support.web import get, held, said_to, web
from worker.web import live

PAGES = (
    "/",
    "/live",
    "/api/status",
    "/accounts",
    "/account?name=default",
    "/parked",
    "/change?account=default&id=1",
    "/appointment?id=app_1",
    "/sign-in",
    "/page.css",
    "/page.js",
    "/icon.svg",
)
FORMS = ("/retry", "/discard", "/pause", "/resume", "/sign-in", "/sign-out")


@contextlib.asynccontextmanager
async def with_a_parked_change(database: Database, **settings: str) -> AsyncIterator[tuple[Surgery, dict[str, str]]]:
    """A service, and the form that sends its parked change again."""
    change = await parked(database, "app_1", {"note": NOTE, "room_id": 7}, error="422 validation failed: room_id")
    async with surgery(database, **settings) as one:
        yield one, {"id": str(change), "account": "default", "from": "change"}


async def untouched(database: Database) -> bool:
    """Nothing was done to any change or account."""
    done = await database.value("SELECT count(*) FROM caspen_sync.intervention")
    paused = await database.value("SELECT count(*) FROM caspen_sync.account WHERE pause_kind IS NOT NULL")
    return bool(await database.states() == {"parked": 1} and not done and not paused)


async def test_without_a_token_one_can_look_and_no_more(database: Database) -> None:
    """On this host, where none is set: every page, but not what a change says; no form is taken, and the page says what
    to set."""
    async with with_a_parked_change(database) as (one, form):
        visitor = Visitor(one.address)
        page = await visitor.get("/change?account=default&id=1")
        assert (page.status, "422 validation failed: room_id" in page.text) == (200, True)
        assert "http.token_file" in page.text
        assert "<form method" not in page.text
        for path in FORMS:
            refused = await visitor.post(path, form | {"name": "default", "token": "", "word": "", "sure": "1"})
            assert refused.status == 403, path
        assert "no token to sign in with" in (await visitor.get("/sign-in")).text
        assert await untouched(database)


async def test_what_changes_say_is_for_who_has_signed_in(database: Database) -> None:
    """Neither a page nor the JSON holds a value of a body, or the API's words, for anybody else; who signs in reads
    them. With the token in a header it works as well."""
    async with with_a_parked_change(database, **WITH_TOKEN) as (one, _):
        await database.pool.execute(
            "INSERT INTO caspen_sync.rejection VALUES ('default', 1, now(), jsonb_build_object('message', $1::text))",
            NOTE,
        )
        visitor = Visitor(one.address)
        for path in PAGES:
            if path != "/live":
                assert NOTE not in (await visitor.get(path)).text, path
        assert NOTE not in await first_event(one.address)
        assert (await visitor.sign_in()).status == 303
        assert (await visitor.get("/change?account=default&id=1")).text.count(NOTE) == 2
        by_token = await Visitor(one.address).get("/change?account=default&id=1", Authorization=f"Bearer {PAGE_TOKEN}")
        assert by_token.text.count(NOTE) == 2
        wrong = await Visitor(one.address).get("/change?account=default&id=1", Authorization="Bearer page-token-wrong")
        assert (wrong.status, wrong.text) == (401, "that is not the token\n")


async def first_event(address: str) -> str:
    """What the stream says first."""
    port = int(address.rpartition(":")[2])
    async with held(port, f"GET /live HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()) as reader, asyncio.timeout(10):
        text = (await reader.readuntil(b'"title"')) + await reader.readuntil(b"\n\n")
        canary.watch(text.decode(), where="/live")
        return text.decode()


async def test_every_page_has_a_strict_policy(database: Database) -> None:
    """Errors, files and redirects too: nothing but our own two files, no frame, no form to elsewhere; and no page has a
    script or a style in itself."""
    async with with_a_parked_change(database, **WITH_TOKEN) as (one, _):
        visitor = Visitor(one.address)
        await visitor.sign_in()
        for path in (*(path for path in PAGES if path != "/live"), "/change?account=default&id=9", "/parked?after=x"):
            page = await visitor.get(path)
            policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
            assert policy["default-src"] == "'none'", path
            assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
            assert (policy["frame-ancestors"], policy["base-uri"], policy["form-action"]) == (
                "'none'",
                "'none'",
                "'self'",
            )
            assert page.headers["Referrer-Policy"] == "same-origin"
            assert page.headers["X-Content-Type-Options"] == "nosniff"
            assert page.headers["Cache-Control"] == "no-store"
            assert not re.search(r"<style|style=|<script(?! src=\"/page.js\" defer)|\son\w+=|javascript:", page.text), (
                path
            )
            assert not re.search(r"(?:src|href|action)=\"(?:\w+:|//)", page.text.replace("http://www.w3.org", "")), path


async def test_another_name_is_turned_away(database: Database) -> None:
    """DNS rebinding: under a name that is not ours neither page nor form is there, also for who is signed in.
    Addresses, localhost, this host's name and those in http.hosts are ours; machines ask under whatever
    name they know."""
    async with with_a_parked_change(database, **WITH_TOKEN, HTTP__HOSTS='["Sync.Example"]') as (one, form):
        port = one.address.rpartition(":")[2]
        await one.web.turns("/readyz", 200, "ok start")
        visitor = Visitor(one.address)
        await visitor.sign_in()
        ours = ("127.0.0.1", "localhost", "[::1]", "10.1.2.3", "sync.example", "SYNC.example", socket.gethostname())
        for name in ours:
            assert (await visitor.get("/sign-in", Host=f"{name}:{port}")).status in (200, 303), name
        theirs = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "x@localhost", "2130706433", "")
        for name in theirs:
            host = f"{name}:{port}" if name else " "
            for path in PAGES:
                assert (await visitor.get(path, Host=host)).status == 421, (name, path)
            for path in FORMS:
                sent = form | {"word": visitor.word, "name": "default", "sure": "1"}
                refused = await visitor.post(path, sent, Host=host, Origin=f"http://{host}")
                assert refused.status == 421, (name, path)
            for path in ("/livez", "/readyz", "/metrics"):
                assert (await visitor.get(path, Host=host)).status == 200, (name, path)
        assert await untouched(database)


FORGED: Sequence[tuple[dict[str, str], dict[str, str]]] = (
    ({}, {"Origin": ""}),
    ({}, {"Origin": "null"}),
    ({}, {"Origin": "http://evil.example"}),
    ({}, {"Origin": "http://127.0.0.1:1"}),
    ({}, {"Origin": "http://localhost"}),
    ({"word": ""}, {}),
    ({"word": "0" * 64}, {}),
    ({"word": "of another session"}, {}),
    ({}, {"Cookie": "caspen_sync_1=x"}),
)


async def test_a_forged_form_does_nothing(database: Database) -> None:
    """Whatever it lacks: an origin of ours, the word of this session, or the session."""
    async with with_a_parked_change(database, **WITH_TOKEN) as (one, form):
        visitor, other = Visitor(one.address), Visitor(one.address)
        await visitor.sign_in()
        await other.sign_in(name="Bob")
        assert visitor.word != other.word
        for wrong, headers in FORGED:
            lacking = {"word": other.word} if wrong.get("word") == "of another session" else wrong
            for path in ("/retry", "/discard", "/pause", "/resume", "/sign-out"):
                sent = form | {"word": visitor.word, "name": "default", "sure": "1"} | lacking
                page = await visitor.post(path, sent, **headers)
                assert (page.status, page.text.count("<h1>Forbidden</h1>")) == (403, 1), (wrong, headers, path)
        assert await untouched(database)
        assert (await visitor.post("/retry", form | {"word": visitor.word})).status == 303
        assert not await untouched(database)


async def test_a_proxy_before_it(database: Database) -> None:
    """Whoever comes by one has to sign in even to look; forms come from the proxy's name, which is in http.hosts, and
    the cookie goes over TLS only. A neighbour's name does not do."""
    async with with_a_parked_change(database, **WITH_TOKEN, HTTP__HOSTS='["sync.example"]') as (one, form):
        visitor = Visitor(one.address)
        for header in ({"Host": "sync.example"}, {"X-Forwarded-For": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}):
            assert (await visitor.get("/", Accept="text/html", **header)).headers["Location"] == "/sign-in?next=%2F"
            assert (await visitor.get("/api/status", **header)).status == 401
            assert (await visitor.get("/live", **header)).status == 401
        by_proxy = {"Host": "sync.example", "Origin": "https://sync.example"}
        entered = {"token": PAGE_TOKEN, "name": "Ann", "next": "/"}
        page = await visitor.post("/sign-in", entered, **by_proxy)
        assert page.status == 303
        cookie = page.headers["Set-Cookie"]
        assert {"HttpOnly", "Secure", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        overview = await visitor.get("/", Host="sync.example")
        found = re.search(r'name="word" value="([0-9a-f]+)"', overview.text)
        assert found
        sent = form | {"word": found[1]}
        assert (await visitor.post("/retry", sent, **by_proxy | {"Origin": "https://other.example"})).status == 403
        assert await untouched(database)
        assert (await visitor.post("/retry", sent, **by_proxy)).status == 303


async def test_beyond_loopback_one_has_to_sign_in(database: Database) -> None:
    """Even to look: a browser is sent to where that is done and from there back, a program is told. /livez, /readyz and
    /metrics, which machines ask, answer."""
    async with clinic(database, **WITH_TOKEN) as one, web(one.env, "--listen", "0.0.0.0:0") as service:
        visitor = Visitor(f"127.0.0.1:{service.port}")
        for path in PAGES:
            page = await visitor.get(path)
            is_open = path in ("/sign-in", "/page.css", "/page.js", "/icon.svg")
            assert page.status == (200 if is_open else 401), path
        page = await visitor.get("/parked?reason=abc", Accept="text/html,*/*")
        assert (page.status, page.headers["Location"]) == (303, "/sign-in?next=%2Fparked%3Freason%3Dabc")
        await service.turns("/readyz", 200, "ok start")
        for path in ("/livez", "/metrics"):
            assert (await visitor.get(path)).status == 200
        told = await visitor.get("/api/status", Authorization=f"Bearer {PAGE_TOKEN}")
        assert (told.status, told.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
        entered = {"token": PAGE_TOKEN, "name": "Ann", "next": "/parked?reason=abc"}
        assert (await visitor.post("/sign-in", entered)).headers["Location"] == "/parked?reason=abc"
        assert (await visitor.get("/")).status == 200
        await one.stopped(service.service)


async def test_signing_in_leads_nowhere_else(database: Database) -> None:
    """Whatever the link said, one stays here."""
    async with surgery(database, **WITH_TOKEN) as one:
        for place in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:1", "\t//x", "x"):
            entered = {"token": PAGE_TOKEN, "name": "Ann", "next": place}
            page = await Visitor(one.address).post("/sign-in", entered)
            assert (page.status, page.headers["Location"]) == (303, "/"), place


async def test_another_token_ends_every_session(database: Database, tmp_path: Path) -> None:
    """The file is read again when it changes. Wrong tokens are logged, at most once a minute, and never
    said."""
    file = tmp_path / "page-token"
    file.write_text(f"{PAGE_TOKEN}\n")
    async with with_a_parked_change(database, HTTP__TOKEN_FILE=str(file)) as (one, form):
        visitor = Visitor(one.address)
        await visitor.sign_in()
        assert (await visitor.post("/retry", form | {"word": "x"})).status == 403
        file.write_text("another-page-token-77\n")
        assert (await visitor.post("/retry", form | {"word": visitor.word})).status == 403
        assert await untouched(database)
        for _ in range(3):
            assert (await visitor.sign_in()).status == 403
        assert (await visitor.sign_in("another-page-token-77")).status == 303
        (event,) = await eventually(lambda: one.web.service.events("sign_in_refused"), what="it is logged")
        assert event["times"] == 1
        assert (await visitor.post("/retry", form | {"word": visitor.word})).status == 303
        (done,) = await eventually(lambda: one.web.service.events("done_by_hand"), what="it is logged")
        assert (done["kind"], done["changes"]) == ("retry", 1)


FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
NO_FORMS = (
    ("/retry", "Content-Type: text/plain\r\nContent-Length: 1\r\n", b"x", 415),
    ("/retry", f"{FORM}Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", 411),
    ("/retry", f"{FORM}Content-Length: 99999999\r\n", b"", 413),
    ("/retry", f"{FORM}Content-Length: 3\r\n", b"\xff=1", 400),
    ("/retry", f"{FORM}Content-Length: 4\r\n", b"id=x", 403),
    ("/sign-in", f"{FORM}Content-Encoding: gzip\r\nContent-Length: 3\r\n", b"abc", 415),
    ("/sign-in", "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1\r\n", b"x", 415),
)


async def test_what_is_no_form_of_ours(database: Database) -> None:
    """It is refused before anything of it is used, and nothing is logged: anybody can send it."""
    async with surgery(database, **WITH_TOKEN) as one:
        for path, headers, body, status in NO_FORMS:
            head = f"POST {path} HTTP/1.1\r\nHost: {one.address}\r\n{headers}\r\n".encode()
            answer = await said_to(one.web.port, head + body)
            assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (headers, answer[:200])
        assert not one.web.service.events("http_failed")


NOT_THERE = (
    ("/change", 400, "Its account and number are missing"),
    ("/change?account=default&id=x", 400, "no number of a change"),
    ("/change?account=default&id=99999999999999999999", 400, "no number of a change"),
    ("/change?account=default&id=99", 404, "There is no change 99"),
    ("/change?account=%00&id=9", 400, "Its account and number are missing"),
    ("/appointment", 400, "Its id is missing"),
    ("/appointment?id=app_none", 404, "Nothing is known of it"),
    ("/appointment?id=%ED%A0%80", 404, "Nothing is known of it"),
    ("/account?name=nobody", 404, "There is no such account"),
    ("/account", 404, "There is no such account"),
    ("/parked?after=-1", 400, "no number of a change"),
    ("/parked?reason=nonsense", 200, "nothing to decide"),
    ("/parked?did=retry&n=1000000000000000000000", 400, "no number of a change"),
)


async def test_what_is_not_there(database: Database) -> None:
    """A page that says what is missing, and no fault of ours."""
    async with surgery(database) as one:
        for path, status, words in NOT_THERE:
            page = await get(f"{one.origin}{path}")
            assert (page.status, words in page.text) == (status, True), (path, page.text[-1500:])


async def test_two_people_decide_at_once(database: Database) -> None:
    """The second one is told that somebody else was faster; nothing is done twice."""
    async with with_a_parked_change(database, **WITH_TOKEN) as (one, form):
        ann, bob = Visitor(one.address), Visitor(one.address)
        await ann.sign_in()
        await bob.sign_in(name="Bob")
        assert (await ann.post("/discard", form | {"word": ann.word, "sure": "1"})).status == 303
        late = await bob.post("/retry", form | {"word": bob.word})
        assert (late.status, "None of these is parked any more" in late.text) == (409, True)
        assert await database.states() == {"discarded": 1}
        assert await database.value("SELECT who FROM caspen_sync.intervention") == "Ann (page)"


async def test_the_database_is_away(database: Database, server: Any) -> None:
    """The pages say so and why, and a form that nothing was done; when it is back, so are they."""
    async with clinic(database, dsn=server.dsn(), **WITH_TOKEN) as one, web(one.env) as service:
        visitor = Visitor(service.address)
        await visitor.sign_in()
        await server.stop()

        async def told() -> bool:
            return "It cannot be said whether changes have reached Caspen" in (await visitor.get("/")).text

        await eventually(told, what="the page says that it knows nothing")
        for path in ("/parked", "/appointment?id=app_1", "/account?name=default"):
            page = await visitor.get(path)
            assert (page.status, "database" in page.text) == (503, True), path
        status = await visitor.get("/api/status")
        assert (status.status, '"level": "unknown"' in status.text, '"status": null' in status.text) == (
            200,
            True,
            True,
        )
        await server.start()
        await service.turns("/", 200, "All changes have reached Caspen", limit_s=20)
        await one.stopped(service.service)


async def test_another_token_ends_streams(database: Database, tmp_path: Path) -> None:
    """Of those who had to sign in to look. Who looks on this host needs no token, and goes on."""
    file = tmp_path / "page-token"
    file.write_text(f"{PAGE_TOKEN}\n")
    async with surgery(database, HTTP__TOKEN_FILE=str(file)) as one:
        visitor = Visitor(one.address)
        await visitor.sign_in()
        cookies = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
        ask = f"GET /live HTTP/1.1\r\nHost: {one.address}\r\n"
        by_proxy = f"{ask}X-Forwarded-For: 203.0.113.1\r\nCookie: {cookies}\r\n\r\n"
        async with held(one.web.port, by_proxy.encode()) as far, held(one.web.port, f"{ask}\r\n".encode()) as near:
            async with asyncio.timeout(20):
                for reader in (far, near):
                    await reader.readuntil(b"data: ")
                file.write_text("another-page-token-77\n")
                await far.read()
                await near.readuntil(b"data: ")


async def test_streams_end_with_the_service(database: Database) -> None:
    """Told to stop, it does not wait for who looks; and of more than it can serve, the last are turned away."""
    async with clinic(database) as one, web(one.env) as service, contextlib.AsyncExitStack() as stack:
        ask = f"GET /live HTTP/1.1\r\nHost: {service.address}\r\n\r\n".encode()
        for _ in range(live.MOST_VIEWERS):
            reader = await stack.enter_async_context(held(service.port, ask))
            async with asyncio.timeout(10):
                await reader.readuntil(b"data: ")
        assert (await said_to(service.port, ask)).startswith(b"HTTP/1.1 503 ")
        assert (await service.get("/livez")).status == 200
        service.service.process.send_signal(signal.SIGTERM)
        assert (await service.service.ends(limit_s=10)).exit_code == 0
        async with asyncio.timeout(20):
            assert (await reader.read()).endswith(b"\r\n0\r\n\r\n")  # to its end, and not cut
        assert not service.service.events("http_failed")
