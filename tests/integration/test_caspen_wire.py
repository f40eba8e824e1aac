"""What the HTTP client puts on the wire, when it puts nothing there, and what it does with its connections."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rawserver import Request, answer, closed_port, keeping_alive, raw_server, saying, silent
from worker import __version__, clock
from worker.caspen import Caspen
from worker.outcome import NotSent, Synced, Unknown
from worker.sandbox import Sandbox, SandboxSettings

TOKEN = "tok-5f0e1c"
RESOURCE = answer("200 OK", b'{"id": "app_1"}')


async def request_for(appointment_id: str, body: dict[str, Any]) -> Request:
    """The one request that arrives."""
    async with raw_server(saying(RESOURCE)) as server, Caspen(server.base_url, timeout_s=10) as caspen:
        exchange = await caspen.send(caspen.request(appointment_id, body), token=TOKEN, deadline=clock.now() + 60)
        assert isinstance(exchange.outcome, Synced)
    assert len(server.requests) == 1
    return server.requests[0]


# -- the request -----------------------------------------------------------------------------------------------------


async def test_the_headers() -> None:
    """As on the API's page; no cookie, no compression asked for, and a name to find us by in the API's logs."""
    request = await request_for("app_1", {"note": None})
    assert request.line == "POST /v1/appointments/app_1 HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["accept"] == "application/json"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"] == f"caspen-sync/{__version__}"
    assert request.headers["content-length"] == str(len(request.body))
    assert "transfer-encoding" not in request.headers
    assert "cookie" not in request.headers
    assert "referer" not in request.headers


@pytest.mark.parametrize(
    "body",
    [
        {"note": None},
        {"note": None, "room_id": 7},
        {"room_id": None, "vehicle_id": None, "confirmed": False},
        {"resource_ids": [], "case_id": 2**63 - 1},
        {"note": ""},
        {"note": 'ü 😀 \u2028 "quoted" \\ \n'},
    ],
)
async def test_absent_stays_absent_and_null_stays_null(body: dict[str, Any]) -> None:
    """The bytes are the JSON of the body: the same keys, nulls as nulls, integers as integers, and all of it ASCII."""
    raw = (await request_for("app_1", body)).body
    assert raw.isascii()
    sent = json.loads(raw)
    assert sent == body
    assert [type(value) for value in sent.values()] == [type(value) for value in body.values()]


AWKWARD: list[str] = [
    "a/b",
    "..%2f..",
    "a/../b",
    "/",
    "%",
    "%2F",
    "%41",
    "a?b=c",
    "a#b",
    "a b",
    " ",
    "a+b",
    "é",
    "😀",
    "a;b",
    "a\\b",
    "a:b@c",
]
AWKWARD += [
    "...",
    ".a",
    "a.",
    "a\r\nX-Evil: 1",
    "a\tb",
    "a\x00b",
    "\u202e",
    "'",
    '"',
    "<>",
    "{x}",
    "*",
    "~",
    "a" * 10_000,
    "/" * 10_000,
    "%2e%2e",
    "..;/",
    "\\..\\",
]


@pytest.mark.parametrize("appointment_id", AWKWARD)
async def test_the_path_names_exactly_this_appointment(appointment_id: str) -> None:
    """Whatever an id holds, it is one segment of the path and comes back as it was; it adds no header and no query."""
    request = await request_for(appointment_id, {"note": None})
    quoted = urllib.parse.quote(appointment_id, safe="")
    assert request.line == f"POST /v1/appointments/{quoted} HTTP/1.1"
    assert urllib.parse.unquote(request.path.removeprefix("/v1/appointments/")) == appointment_id
    assert "x-evil" not in request.headers


any_id = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: text not in (".", "..")
)


@given(appointment_id=any_id)
@settings(max_examples=100)
def test_any_id_comes_back_as_it_was(appointment_id: str) -> None:
    """The same for any text that Postgres can hold."""
    request = asyncio.run(request_for(appointment_id, {"note": None}))
    assert urllib.parse.unquote(request.path.removeprefix("/v1/appointments/")) == appointment_id
    assert request.path.count("/") == 3


@pytest.mark.parametrize("appointment_id", [".", ".."])
async def test_a_dot_segment_is_not_sent(appointment_id: str) -> None:
    """For an id that a proxy would resolve away not a byte is sent: it would update something else."""
    async with raw_server(saying(RESOURCE)) as server, Caspen(server.base_url, timeout_s=10) as caspen:
        with pytest.raises(ValueError, match="would change the path of the request"):
            caspen.request(appointment_id, {"note": None})
        assert server.connections == 0


async def test_an_awkward_id_reaches_the_sandbox() -> None:
    """Client and sandbox agree on what an id with a slash, a percent sign and a space in it is."""
    appointment_id = "app_ a/b%2F?c#d..é😀"
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox, Caspen(sandbox.base_url, timeout_s=10) as caspen:
        await caspen.send(caspen.request(appointment_id, {"note": "x"}), token=TOKEN, deadline=clock.now() + 60)
        assert sandbox.appointments[appointment_id]["note"] == "x"
        assert list(sandbox.appointments) == [appointment_id]


# -- the deadline ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late_s", [0.0, 0.001, 1e9])
async def test_after_its_deadline_not_a_byte_is_sent(late_s: float) -> None:
    """A request whose time is over does not even open a connection."""
    async with raw_server(saying(RESOURCE)) as server, Caspen(server.base_url, timeout_s=10) as caspen:
        exchange = await caspen.send(
            caspen.request("app_1", {"note": None}), token=TOKEN, deadline=clock.now() - late_s
        )
        assert isinstance(exchange.outcome, NotSent)
        assert server.connections == 0


def jumping(after: int, *, by_s: float = 1000.0) -> Callable[[], float]:
    """A clock that stands still for so many looks and then is far ahead: a process that was frozen and thawed."""
    looks = 0

    def now() -> float:
        nonlocal looks
        looks += 1
        return 0.0 if looks <= after else by_s

    return now


@pytest.mark.parametrize("looks", range(6))
async def test_a_process_that_was_frozen_on_the_way_sends_nothing(looks: int) -> None:
    """Wherever the clock jumps past the deadline: either nothing was sent, or the server has it and that is known."""
    async with (
        raw_server(saying(RESOURCE)) as server,
        Caspen(server.base_url, timeout_s=10, now=jumping(looks)) as caspen,
    ):
        exchange = await caspen.send(caspen.request("app_1", {"note": None}), token=TOKEN, deadline=10.0)
    assert isinstance(exchange.outcome, NotSent if not server.received else Synced)


async def test_the_clock_is_looked_at_when_the_connection_stands() -> None:
    """A deadline that passes while the connection is being made: the server sees a connection, and not one byte."""
    connected_and_silent = 0
    for looks in range(6):
        async with raw_server(silent()) as server, Caspen(server.base_url, timeout_s=0.2, now=jumping(looks)) as caspen:
            outcome = (await caspen.send(caspen.request("app_1", {"note": None}), token=TOKEN, deadline=10.0)).outcome
            if isinstance(outcome, NotSent):
                assert not server.received
                connected_and_silent += server.connections
    assert connected_and_silent >= 1


async def test_after_one_that_was_too_late_the_next_is_sent() -> None:
    """The connection that was made in vain is not mistaken for one in use."""
    looks = jumping(2)
    ahead = 0.0

    def now() -> float:
        return ahead or looks()

    async with raw_server(keeping_alive(RESOURCE)) as server, Caspen(server.base_url, timeout_s=10, now=now) as caspen:
        assert isinstance(
            (await caspen.send(caspen.request("a", {"note": None}), token=TOKEN, deadline=10.0)).outcome, NotSent
        )
        ahead = 1000.0
        assert isinstance(
            (await caspen.send(caspen.request("b", {"note": None}), token=TOKEN, deadline=1010.0)).outcome, Synced
        )
        assert [request.path for request in server.requests] == ["/v1/appointments/b"]


async def test_the_deadline_cuts_the_timeout_short() -> None:
    """A request ends with its deadline, however long the timeout is."""
    async with raw_server(silent()) as server, Caspen(server.base_url, timeout_s=600) as caspen:
        exchange = await caspen.send(caspen.request("app_1", {"note": None}), token=TOKEN, deadline=clock.now() + 0.3)
    assert isinstance(exchange.outcome, Unknown)
    assert exchange.ended_at - exchange.started_at < 10


# -- connections -----------------------------------------------------------------------------------------------------


async def test_a_connection_is_used_again() -> None:
    """Requests in a row share one connection."""
    async with raw_server(keeping_alive(RESOURCE)) as server, Caspen(server.base_url, timeout_s=10) as caspen:
        for number in range(5):
            await caspen.send(caspen.request(f"app_{number}", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        assert (server.connections, len(server.requests)) == (1, 5)


async def test_a_kept_connection_that_ends_under_the_request_is_no_reason_to_send_it_twice() -> None:
    """The server may have done it before it hung up: unknown, and each POST was on the wire once."""

    async def respond(request: Request, writer: Any) -> None:
        if request.path.endswith("/first"):
            writer.write(RESOURCE)
            await writer.drain()
        else:
            writer.close()

    async with raw_server(respond) as server, Caspen(server.base_url, timeout_s=10) as caspen:
        first = await caspen.send(caspen.request("first", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        second = await caspen.send(caspen.request("second", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        assert isinstance(first.outcome, Synced)
        assert isinstance(second.outcome, Unknown)
        assert server.connections == 1
        assert [request.path.rpartition("/")[2] for request in server.requests] == ["first", "second"]


async def test_a_server_that_hangs_up_after_each_answer_sees_each_request_once() -> None:
    """Whether the client notices in time or not: no POST arrives twice, and what was done is not called unsent."""
    async with raw_server(saying(RESOURCE)) as server, Caspen(server.base_url, timeout_s=10) as caspen:
        for number in range(20):
            exchange = await caspen.send(
                caspen.request(f"app_{number}", {"note": None}), token=TOKEN, deadline=clock.now() + 60
            )
            arrived = [request.path for request in server.requests].count(f"/v1/appointments/app_{number}")
            assert arrived <= 1
            assert isinstance(exchange.outcome, Synced if arrived else Unknown)


async def test_an_unread_answer_does_not_leak_into_the_next() -> None:
    """What is left of one answer's body is never read as the next one's head."""
    long = answer("500 Oops", b"HTTP/1.1 200 OK\r\n\r\n" * 50_000)

    async def respond(request: Request, writer: Any) -> None:
        writer.write(long if request.path.endswith("/first") else RESOURCE)
        await writer.drain()

    async with raw_server(respond) as server, Caspen(server.base_url, timeout_s=10) as caspen:
        first = await caspen.send(caspen.request("first", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        second = await caspen.send(caspen.request("second", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        assert (first.outcome.status, second.outcome.status) == (500, 200)
        assert len(server.requests) == 2


async def test_cookies_are_not_kept() -> None:
    """A cookie of one account's answer does not go out with another account's request."""
    raw = answer("200 OK", b'{"id": "app_1"}', "Set-Cookie: session=1; Path=/")
    async with raw_server(keeping_alive(raw)) as server, Caspen(server.base_url, timeout_s=10) as caspen:
        for token in ("one", "two"):
            await caspen.send(caspen.request("app_1", {"note": None}), token=token, deadline=clock.now() + 60)
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer one", "Bearer two"]
        assert not any("cookie" in request.headers for request in server.requests)


async def test_no_proxy_of_the_environment_gets_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go to `api.base_url` and nowhere else."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    await request_for("app_1", {"note": None})


async def test_many_at_once() -> None:
    """One client serves many requests at once; none waits for another, and each gets its own answer."""

    async def respond(request: Request, writer: Any) -> None:
        together.set() if len(server.requests) == 100 else None
        await together.wait()
        writer.write(answer("200 OK", json.dumps({"id": request.path.rpartition("/")[2]}).encode()))
        await writer.drain()

    together = asyncio.Event()
    async with raw_server(respond) as server, Caspen(server.base_url, timeout_s=30) as caspen:
        exchanges = await asyncio.gather(
            *(
                caspen.send(caspen.request(f"app_{n}", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
                for n in range(100)
            )
        )
    ids = [exchange.outcome.resource.id for exchange in exchanges if isinstance(exchange.outcome, Synced)]
    assert ids == [f"app_{n}" for n in range(100)]


async def test_an_answer_that_came_before_its_question_is_nobodys() -> None:
    """What a server says on an idle connection, such as a late 408, is not taken for the next request's answer."""
    spoken = asyncio.Event()

    async def respond(_: Request, writer: Any) -> None:
        writer.write(RESOURCE)
        await writer.drain()
        if not spoken.is_set():
            await first_is_over.wait()
            writer.write(answer("200 OK", b'{"id": "stale"}'))
            await writer.drain()
            spoken.set()

    first_is_over = asyncio.Event()
    async with raw_server(respond) as server, Caspen(server.base_url, timeout_s=10) as caspen:
        first = await caspen.send(caspen.request("first", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        first_is_over.set()
        await spoken.wait()
        for _ in range(10):  # turns of the loop, in which the client reads what is there
            await asyncio.sleep(0)
        second = await caspen.send(caspen.request("second", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        third = await caspen.send(caspen.request("third", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        assert isinstance(first.outcome, Synced)
        assert isinstance(second.outcome, NotSent)
        assert isinstance(third.outcome, Synced)
        assert third.outcome.resource.id == "app_1"
        assert [request.path.rpartition("/")[2] for request in server.requests] == ["first", "third"]
