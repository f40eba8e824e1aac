"""What somebody asks of the status page, made to hurt: every parameter, field, cookie and header that is looked at is
text, whoever sends it, and what is done by hand is done to what was named."""

from __future__ import annotations

import itertools
import re
from urllib.parse import quote, urlsplit

import pytest

from tests.support.database import Database
from tests.support.hostile import TEXTS, assert_log, assert_metrics, assert_page, catalogue, counts, tables_with
from tests.support.parking import parked
from tests.support.statuspage import PAGE_TOKEN, WITH_TOKEN, Visitor, surgery
from tests.support.web import said_to

PARAMETERS = (
    "/?x={}",
    "/account?name={}",
    "/parked?account={}",
    "/parked?reason={}",
    "/parked?after={}",
    "/parked?did={}&n=1",
    "/parked?did=retry&n={}",
    "/change?account={}&id=1",
    "/change?account=default&id={}",
    "/change?account=default&id=1&did={}",
    "/appointment?id={}",
    "/sign-in?next={}",
    "/sign-in?next=/{}",
    "/{}",
)
FIELDS = (
    ("/retry", ("id", "ids", "account", "reason", "from", "why", "whole", "sure")),
    ("/discard", ("id", "ids", "account", "reason", "from", "why", "whole")),
    ("/pause", ("name",)),
    ("/resume", ("name", "why")),
    ("/sign-in", ("token", "name", "next")),
    ("/sign-out", ("word",)),
)


def turn(nth: int, *, of: int) -> list[tuple[str, str]]:
    """A part of the texts, another one each time: all of them for each would take a minute."""
    return list(TEXTS.items())[nth % of :: of]


@pytest.mark.long
async def test_parameters_are_text(database: Database) -> None:
    """Of every page, for who is signed in and who is not: a page of ours comes back, or a plain refusal, and nothing
    changes."""
    await parked(database, "app_1", {"note": "a long enough note"})
    before, held = await catalogue(database), await counts(database)
    async with surgery(database, **WITH_TOKEN) as one:
        signed_in, visitor = Visitor(one.address), Visitor(one.address)
        await signed_in.sign_in()
        for nth, path in enumerate(PARAMETERS):
            for name, text in turn(nth, of=3):
                who = signed_in if "sign-in" not in path and len(name) % 2 else visitor
                page = await who.get(path.format(quote(text, safe="")))
                assert page.status in (200, 400, 404), (path, name)
                assert_headers(page.headers)
                if page.headers["Content-Type"].startswith("text/html"):
                    assert_page(page.text)
                else:
                    assert "hacked" not in page.text
        assert_metrics((await one.web.scrape()).text)
    del held["worker"], held["account"], held["rate_slot"]  # the service's own
    now = await counts(database)
    assert {name: now[name] for name in held} == held
    assert await catalogue(database) == before
    assert not any("hacked" in str(event) for event in assert_log(one.web.service.lines))


def assert_headers(headers: object) -> None:
    """None of theirs, and none that leads elsewhere."""
    assert isinstance(headers, dict)
    assert not any("hacked" in name.lower() for name in headers)
    where = urlsplit(headers.get("Location", "/"))
    assert not where.scheme, where
    assert not where.netloc, where
    assert where.path.startswith("/"), where


async def test_fields_are_text(database: Database) -> None:
    """Of every form, sent by who is signed in: what is not there is not found, a name or a reason is kept as it was
    said, and shows as text."""
    change = await parked(database, "app_1", {"note": "a long enough note"})
    await parked(database, "app_2", {"note": "a long enough note"})
    before = await catalogue(database)
    async with surgery(database, **WITH_TOKEN) as one:
        visitor = Visitor(one.address)
        await visitor.sign_in()
        nth = itertools.count()
        for path, fields in FIELDS:
            for field in fields:
                for name, text in turn(next(nth), of=6):
                    # Signing out with a word that is none would end it.
                    sender = visitor if path != "/sign-in" else Visitor(one.address)
                    form = {"word": visitor.word, "account": "default", "name": "nobody", "token": "none"}
                    page = await sender.post(path, form | {field: text})
                    assert page.status in (200, 303, 400, 403, 404, 409), (path, field, name, page.status)
                    assert_headers(page.headers)
                    if page.status != 303:
                        assert_page(page.text)
        assert await database.states() == {"parked": 2}
        assert await database.value("SELECT count(*) FROM caspen_sync.intervention") == 0

        # What is kept: the name of who signed in, and the reason.
        said = [TEXTS[name] for name in ("sql quote", "html", "attribute", "log lines", "terminal", "direction")]
        for text in said:
            person = Visitor(one.address)
            entered = await person.post("/sign-in", {"token": PAGE_TOKEN, "name": text, "next": text})
            assert entered.status == 303
            assert_headers(entered.headers)
            assert len(re.findall(r"caspen_sync_\d+=", entered.headers["Set-Cookie"])) == 1
            overview = await person.get("/")
            assert_page(overview.text)
            word = re.search(r'name="word" value="([0-9a-f]+)"', overview.text)
            assert word
            sent = {"word": word[1], "name": "default", "why": f"ZWHYZ {text}"}
            assert (await person.post("/pause", sent)).status == 303
            for path in ("/", "/accounts", "/account?name=default"):
                assert_page((await person.get(path)).text)
            assert (await person.post("/resume", sent)).status == 303
        assert_page((await visitor.get(f"/change?account=default&id={change}")).text)
    kept = await database.rows("SELECT who, reason FROM caspen_sync.intervention ORDER BY id")
    assert [row["reason"] for row in kept] == [f"ZWHYZ {text}".strip() for text in said for _ in range(2)]
    assert await tables_with(database, "ZWHYZ") <= {"intervention", "account"}
    assert await catalogue(database) == before
    events = assert_log(one.web.service.lines)
    assert not any("hacked" in str(event) for event in events)


async def test_headers_are_text(database: Database) -> None:
    """Cookies, tokens, origins, proxies' marks and whatever else a client says of itself: nobody is let in by them, no
    answer repeats them, and no line of the log is theirs."""
    async with surgery(database, **WITH_TOKEN) as one:
        port = one.web.port
        for text in TEXTS.values():
            # As bytes: no client would send a line feed, and without it all of it is one header.
            value = text.replace("\r", "").replace("\n", "").encode()
            for name in (
                f"Cookie: caspen_sync_{port}=",
                "Authorization: Bearer ",
                "Authorization: ",
                "Origin: ",
                "X-Forwarded-For: ",
                "X-Forwarded-Host: ",
                "Referer: ",
                "User-Agent: ",
                "Accept: ",
                "Last-Event-ID: ",
            ):
                for request in (b"GET /change?account=default&id=1", b"POST /pause"):
                    head = b"%b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n" % (request, port)
                    said = await said_to(port, head + name.encode() + value + b"\r\n\r\n")
                    assert re.match(rb"HTTP/1\.[01] (4\d\d|303) ", said), (name, text, said[:200])
                    assert b"hacked" not in said, (name, text)
            said = await said_to(port, b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % value)
            assert re.match(rb"HTTP/1\.[01] (421|400) ", said), (text, said[:200])
            assert b"hacked" not in said
        assert (await one.web.get("/livez")).status == 200
    assert not any("hacked" in str(event) for event in assert_log(one.web.service.lines))
