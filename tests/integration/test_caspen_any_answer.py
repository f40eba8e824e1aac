"""Ten thousand answers, right, odd and broken, over a real socket: each comes to exactly one outcome, in time."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, assert_never

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.rawserver import RawServer, Request, raw_server
from tests.support.waiting import NOISE_S
from worker import clock
from worker.caspen import Caspen
from worker.outcome import Exchange, NotSent, Outcome, Refused, Rejected, Retry, Synced, Throttled, Unknown

TOKEN = "tok-5f0e1c"
NOTE = "Mrs Miller has the flu"
TIMEOUT_S = 0.2

# -- answers ---------------------------------------------------------------------------------------------------------

End = Literal["keep", "close", "reset"]


@dataclass(frozen=True, slots=True)
class Script:
    """What the server writes, and what it does then."""

    raw: bytes
    end: End


KNOWN = [200, 201, 202, 204, 301, 304, 307, 400, 401, 403, 404, 405, 408, 409, 410, 422, 425, 429]
KNOWN += [500, 502, 503, 504, 520]

statuses = st.one_of(
    st.sampled_from([200, 200, 422, 429]), st.sampled_from(KNOWN), st.sampled_from(KNOWN), st.integers(100, 999)
)
status_lines = st.one_of(
    *[statuses.map(lambda status: f"HTTP/1.1 {status} Said".encode())] * 8,
    statuses.map(lambda status: f"HTTP/1.0 {status}".encode()),
    st.tuples(statuses, st.text(max_size=20)).map(lambda said: f"HTTP/1.1 {said[0]} {said[1]}".encode()),
    st.sampled_from([b"HTTP/1.1 2000 OK", b"HTTP/1.1 -1 OK", b"HTTP/1.1", b"HTTP/9.9 200 OK", b"ICY 200 OK", b""]),
    st.binary(max_size=20),
)

numbers = st.one_of(
    st.integers(-1, 100).map(str),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["", "nan", "inf", "1e9", "9" * 5000, "1_0", "٣", "60, 60", "Wed, 21 Oct 2099 07:28:00 GMT"]),
    st.text(max_size=12),
)
names = st.sampled_from(["X-RateLimit-Limit", "x-ratelimit-remaining", "Retry-After", "X-RateLimit-Reset", "Date"])
headers = st.one_of(
    *[st.tuples(names, numbers).map(lambda header: f"{header[0]}: {header[1]}".encode())] * 4,
    st.sampled_from(
        [
            b"X-RateLimit-Limit: 60",
            b"X-RateLimit-Remaining: 59",
            b"Content-Type: text/html; charset=utf-16",
            b"Content-Encoding: gzip",
            b"Content-Encoding: br",
            b"Connection: close",
            b"Connection: upgrade",
            b"Upgrade: websocket",
            b"Set-Cookie: a=b",
            b"Location: http://127.0.0.1:9/",
            b"WWW-Authenticate: Bearer " + TOKEN.encode(),
            b"X: " + b"a" * 9000,
        ]
    ),
    st.binary(max_size=20),
)

RESOURCE = json.dumps(
    {"id": "app_1", "note": NOTE, "confirmed": True, "starts_at": "2024-01-01T10:00:00Z", "resource_ids": ["res_1"]}
).encode()
REJECTION = json.dumps({"message": f"{NOTE} {TOKEN}", "errors": {"note": [NOTE], "room_id": ["no"]}}).encode()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A resource or a rejection with some bytes of it taken out, put in or exchanged."""
    body = draw(st.sampled_from([RESOURCE, REJECTION]))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        stop = draw(st.integers(start, min(len(body), start + 8)))
        body = body[:start] + draw(st.binary(max_size=4) | st.sampled_from([b"[" * 5000, b"1" * 5000])) + body[stop:]
    return body


bodies = st.one_of(
    st.sampled_from([RESOURCE, REJECTION, b""]),
    mutated(),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=64),
)


def _chunked(body: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part) + b"0\r\n\r\n"


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """One answer: mostly well-formed, framed rightly or wrongly, whole or cut. Silence costs time, so it is rare."""
    lines = [draw(status_lines), *draw(st.lists(headers, max_size=4))]
    body = draw(bodies)
    match draw(st.sampled_from(["length", "length", "length", "wrong length", "none", "chunked", "chunked", "wrong"])):
        case "length":
            lines.append(b"Content-Length: %d" % len(body))
        case "wrong length":
            lines += [
                f"Content-Length: {length}".encode() for length in draw(st.lists(numbers, min_size=1, max_size=2))
            ]
        case "chunked":
            lines.append(b"Transfer-Encoding: chunked")
            body = _chunked(body)
        case "wrong":
            lines.append(b"Transfer-Encoding: chunked")
    raw = b"\r\n".join(lines) + b"\r\n\r\n" + body
    if draw(st.integers(0, 7)) == 0:
        raw = raw[: draw(st.integers(0, len(raw)))]
    ends: list[End] = ["close", "reset", "keep"]
    return Script(raw, draw(st.sampled_from(ends * 2 + ends[:2] * 4)))


# -- the server, the client and what must hold -----------------------------------------------------------------------


@dataclass(slots=True)
class World:
    """One event loop, server and client for all examples, so that connections are used again in any state."""

    runner: asyncio.Runner
    script: Script = Script(b"", "close")
    server: RawServer = field(default_factory=RawServer)
    caspen: Caspen = field(init=False)
    number: int = 0

    async def respond(self, _: Request, writer: asyncio.StreamWriter) -> None:
        script = self.script
        writer.write(script.raw)
        await writer.drain()
        if script.end == "reset":
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif script.end == "close":
            writer.close()

    def exchange(self, script: Script) -> Exchange:
        """Sends a request of its own for this example; whatever arrived before belongs to an earlier one."""
        self.script = script
        self.number += 1
        appointment_id = f"app_{self.number}"
        self.server.requests.clear()
        self.server.received.clear()
        exchange = self.runner.run(
            self.caspen.send(
                self.caspen.request(appointment_id, {"note": NOTE}), token=TOKEN, deadline=clock.now() + 60
            )
        )
        arrived = [request.path.rpartition("/")[2] for request in self.server.requests]
        assert arrived.count(appointment_id) <= 1, "a request that may have been done was sent again"
        assert exchange.outcome.status is None or appointment_id in arrived, "answered before it was asked"
        return exchange


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with asyncio.Runner() as runner:
        world = World(runner)
        listening = raw_server(world.respond)
        world.server = runner.run(listening.__aenter__())
        world.caspen = runner.run(Caspen(world.server.base_url, timeout_s=TIMEOUT_S).__aenter__())
        try:
            yield world
        finally:
            runner.run(world.caspen.__aexit__(None, None, None))
            runner.run(listening.__aexit__(None, None, None))


def check(exchange: Exchange) -> None:
    """What holds for any exchange."""
    assert exchange.ended_at - exchange.started_at < TIMEOUT_S + NOISE_S
    assert exchange.limit is None or 1 <= exchange.limit < 10**9
    assert exchange.remaining is None or 0 <= exchange.remaining < 10**9
    for secret in (TOKEN, NOTE, "Miller"):
        assert secret not in repr(exchange)
    check_outcome(exchange.outcome)
    if isinstance(exchange.outcome, NotSent) or (exchange.outcome.status or 200) >= 500:
        assert (exchange.limit, exchange.remaining) == (None, None)


def check_outcome(outcome: Outcome) -> None:
    """One of the closed sum, and what it promises holds."""
    match outcome:
        case Synced():
            assert 200 <= outcome.status < 300
            assert json.loads(outcome.text).keys() >= {"id"}
        case Throttled():
            assert all(0 < hint < math.inf for hint in outcome.hints_s)
        case Rejected():
            assert 300 <= outcome.status < 500
            assert outcome.messages is None or TOKEN not in outcome.messages
            assert outcome.messages is None or json.loads(outcome.messages).keys() == {"message", "errors"}
        case Refused():
            assert outcome.status in (401, 403)
        case NotSent() | Retry() | Unknown():
            pass
        case _:
            assert_never(outcome)


def _all_answers(world: World, examples: int) -> set[str]:
    """Tries so many answers; gives the kinds of outcome that there were."""
    kinds: set[str] = set()

    @given(script=scripts())
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    def attempt(script: Script) -> None:
        exchange = world.exchange(script)
        kinds.add(exchange.outcome.name)
        check(exchange)

    attempt()
    return kinds


ANSWERED = {"synced", "retry", "unknown", "throttled", "refused", "rejected"}


def test_a_hundred_answers(world: World) -> None:
    """Whatever a server answers, there is one outcome, in time, and nothing secret in its repr."""
    assert _all_answers(world, 100) <= ANSWERED | {"not_sent"}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_thousand_answers(world: World) -> None:
    """The same with ten thousand, among which are all outcomes that an answer can have."""
    assert _all_answers(world, 10_000) >= ANSWERED
