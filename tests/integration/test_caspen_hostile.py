"""The HTTP client against answers that are made to hurt: memory and time stay bounded, one outcome comes of each."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from itertools import chain, repeat

import psutil
import pytest

from tests.support.rawserver import Request, Respond, answer, keeping_alive, raw_server, resetting, saying
from tests.support.waiting import NOISE_S
from worker import clock
from worker.answers import ANSWER_MAX_BYTES
from worker.caspen import Caspen
from worker.outcome import Exchange, Rejected, Retry, Synced, Throttled, Unknown

TOKEN = "tok-5f0e1c"
RESOURCE = b'{"id": "app_1"}'
HEAD = b"HTTP/1.1 200 OK\r\nX-RateLimit-Limit: 60\r\nX-RateLimit-Remaining: 59\r\n"
MEMORY_MAX_BYTES = 64 * 1024 * 1024


async def exchange_with(respond: Respond, *, timeout_s: float = 10) -> Exchange:
    async with raw_server(respond) as server, Caspen(server.base_url, timeout_s=timeout_s) as caspen:
        exchange = await caspen.send(caspen.request("app_1", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        assert len(server.requests) == 1
    assert exchange.ended_at - exchange.started_at < timeout_s + NOISE_S
    return exchange


async def growth_during(work: Callable[[], Awaitable[Exchange]]) -> tuple[Exchange, int]:
    """What the work came to, and by how much this process, server and all, was larger than before at its largest."""
    process = psutil.Process()
    before = peak = process.memory_info().rss
    task = asyncio.ensure_future(work())
    while not task.done():
        await asyncio.wait([task], timeout=0.01)
        peak = max(peak, process.memory_info().rss)
    return await task, peak - before


def pouring(head: bytes, drops: bytes) -> Respond:
    """Writes as fast as the client reads, without end."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        for piece in chain([head], repeat(drops)):
            writer.write(piece)
            await writer.drain()

    return respond


# -- without end -----------------------------------------------------------------------------------------------------

ENDLESS = {
    "one header": pouring(HEAD + b"X: ", b"a" * 65_536),
    "headers": pouring(HEAD, b"X: y\r\n" * 10_000),
    "status": pouring(b"HTTP/1.1 200 ", b"a" * 65_536),
    "100 Continue": pouring(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "103 Early Hints": pouring(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" * 1000),
    "empty lines": pouring(b"", b"\r\n" * 30_000),
    "chunk size": pouring(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 65_536),
    "chunk extension": pouring(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 65_536),
    "chunks": pouring(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n" * 10_000),
    "trailers": pouring(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 10_000),
    "body": pouring(HEAD + b"\r\n", b" " * 65_536),
    "body of a rejection": pouring(b"HTTP/1.1 422 No\r\n\r\n", b" " * 65_536),
    "body of a 500": pouring(b"HTTP/1.1 500 No\r\n\r\n", b" " * 65_536),
    "body of a redirect": pouring(b"HTTP/1.1 301 No\r\nLocation: /\r\n\r\n", b" " * 65_536),
    "no HTTP": pouring(b"", b"\x00" * 65_536),
    "after a 101": pouring(b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b" " * 65_536),
    "behind the answer": pouring(answer("200 OK", RESOURCE), answer("200 OK", RESOURCE) * 1000),
}


@pytest.mark.long
@pytest.mark.parametrize("what", ENDLESS)
async def test_what_has_no_end(what: str) -> None:
    """Whatever it is that goes on for ever, it is over with the timeout and does not fill the memory."""
    exchange, growth = await growth_during(lambda: exchange_with(ENDLESS[what], timeout_s=1))
    assert growth < MEMORY_MAX_BYTES
    assert isinstance(exchange.outcome, Synced | Unknown | Retry | Rejected)


async def test_a_flood_of_interim_answers_before_the_real_one() -> None:
    """10,000 times 103, and then the answer: it counts, and they do not."""
    raw = b"HTTP/1.1 103 Early Hints\r\nX-RateLimit-Limit: 7\r\n\r\n" * 10_000 + HEAD + b"Content-Length: 15\r\n\r\n"
    exchange, growth = await growth_during(lambda: exchange_with(saying(raw + RESOURCE)))
    assert isinstance(exchange.outcome, Synced)
    assert (exchange.limit, exchange.remaining) == (60, 59)
    assert growth < MEMORY_MAX_BYTES


# -- large -----------------------------------------------------------------------------------------------------------

HUGE = 512 * 1024 * 1024


def _bomb(wbits: int) -> bytes:
    packer = zlib.compressobj(9, wbits=wbits)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(HUGE >> 20)) + packer.flush()


GZIP = _bomb(zlib.MAX_WBITS | 16)
BOMBS = {
    "gzip": GZIP,
    "deflate": _bomb(zlib.MAX_WBITS),
    "gzip, gzip": gzip.compress(GZIP),
    # Brotli is not even looked at, so it is of no consequence what it would unpack to.
    "br": GZIP,
}


@pytest.mark.parametrize("status", ["200 OK", "422 No"])
@pytest.mark.parametrize("encoding", BOMBS)
async def test_a_small_answer_that_unpacks_to_a_huge_one(encoding: str, status: str) -> None:
    """Half a GiB in half a MiB, which nobody asked for: it is never held unpacked."""
    bomb = BOMBS[encoding]
    assert len(bomb) < ANSWER_MAX_BYTES
    raw = answer(status, bomb, f"Content-Encoding: {encoding}", "X-RateLimit-Limit: 60")
    exchange, growth = await growth_during(lambda: exchange_with(saying(raw)))
    assert isinstance(exchange.outcome, Retry if status.startswith("2") else Rejected)
    assert exchange.limit == 60
    assert growth < MEMORY_MAX_BYTES


# -- framing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>HTTP/0.9 has neither status nor headers</html>",
        RESOURCE,
        b"HTTP/2 200\r\n\r\n" + RESOURCE,
        HEAD + b"Content-Length: 15\r\nContent-Length: 7\r\n\r\n" + RESOURCE,
        HEAD + b"Content-Length: 15, 7\r\n\r\n" + RESOURCE,
        HEAD + b"Content-Length: +15\r\n\r\n" + RESOURCE,
        HEAD + b"Content-Length: 0x0f\r\n\r\n" + RESOURCE,
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + RESOURCE,
        HEAD + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n" + RESOURCE,
        HEAD + b"X: y\r\n" * 100_000 + b"\r\n" + RESOURCE,
    ],
)
async def test_no_answer_at_all(raw: bytes) -> None:
    """HTTP/0.9, lengths that contradict each other, header bombs: unknown, since nothing of it can be relied upon."""
    exchange, growth = await growth_during(lambda: exchange_with(saying(raw)))
    assert isinstance(exchange.outcome, Unknown)
    assert (exchange.outcome.status, exchange.limit, exchange.remaining) == (None, None, None)
    assert growth < MEMORY_MAX_BYTES


@pytest.mark.parametrize(
    "chunks",
    [
        b"",
        b"f\r\n" + RESOURCE,
        b"f\r\n" + RESOURCE + b"\r\n",
        b"5\r\n" + RESOURCE + b"\r\n0\r\n\r\n",
        b"-1\r\n" + RESOURCE + b"\r\n0\r\n\r\n",
        b"0xf\r\n" + RESOURCE + b"\r\n0\r\n\r\n",
        b"f" * 5000 + b"\r\n" + RESOURCE + b"\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\n" + RESOURCE,
        b"nonsense\r\n" + RESOURCE,
        RESOURCE,
    ],
)
async def test_chunks_that_make_no_sense(chunks: bytes) -> None:
    """Cut, too long, too short, negative or no number: the answer is not believed, whatever came through of it."""
    exchange = await exchange_with(saying(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks))
    assert isinstance(exchange.outcome, Retry | Unknown)


async def test_the_budget_of_an_answer_that_is_cut_short() -> None:
    """The headers were there, so they count, whatever becomes of the body: cut, reset or never ending."""
    head = HEAD + b"Content-Length: 100\r\n\r\n{"
    for respond in (saying(head), keeping_alive(head)):
        exchange = await exchange_with(respond, timeout_s=0.3)
        assert isinstance(exchange.outcome, Retry | Unknown)
        assert (exchange.limit, exchange.remaining) == (60, 59)
    exchange = await exchange_with(resetting(head))
    assert (exchange.limit, exchange.remaining) in ((60, 59), (None, None))


@pytest.mark.parametrize("status", ["201 Created", "301 Moved", "401 No", "422 No", "429 No"])
async def test_the_budget_comes_with_any_answer_of_the_api(status: str) -> None:
    """Each outcome that has the API's own headers has its budget."""
    raw = answer(status, RESOURCE, "x-ratelimit-limit: 60", "X-RateLimit-Remaining: 0")
    exchange = await exchange_with(saying(raw))
    assert (exchange.limit, exchange.remaining) == (60, 0)


@pytest.mark.parametrize("status", ["101 Go", "500 No", "502 No", "503 No", "504 No"])
async def test_no_budget_comes_with_a_gateway_s_answer(status: str) -> None:
    """What a gateway counts is its own."""
    raw = answer(status, b"", "X-RateLimit-Limit: 60", "X-RateLimit-Remaining: 0")
    exchange = await exchange_with(saying(raw))
    assert (exchange.limit, exchange.remaining) == (None, None)


async def test_waits_come_through_the_wire() -> None:
    """A 429 with everything in it that the API's page promises, and a Date."""
    raw = answer(
        "429 Too Many Requests",
        b'{"message":"Too Many Attempts."}',
        "Date: Fri, 15 Jan 2100 08:00:00 GMT",
        "Retry-After: 9",
        "X-RateLimit-Limit: 60",
        "X-RateLimit-Remaining: 0",
        "X-RateLimit-Reset: " + "9" * 5000,
    )
    exchange = await exchange_with(saying(raw))
    assert isinstance(exchange.outcome, Throttled)
    assert (exchange.outcome.hints_s, exchange.limit, exchange.remaining) == ((9.0,), 60, 0)


async def test_an_upgrade_is_no_answer_and_ends_the_connection() -> None:
    """101: unknown; what the server says after it is not taken for the next request's answer."""
    upgrade = b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + answer(
        "200 OK", b'{"id": "evil"}'
    )

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(upgrade if request.path.endswith("/first") else answer("200 OK", RESOURCE))
        await writer.drain()

    async with raw_server(respond) as server, Caspen(server.base_url, timeout_s=10) as caspen:
        first = await caspen.send(caspen.request("first", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        second = await caspen.send(caspen.request("second", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
    assert isinstance(first.outcome, Unknown)
    assert isinstance(second.outcome, Synced)
    assert second.outcome.resource.id == "app_1"
    assert server.connections == 2


# -- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype html><title>Sign in</title>",
        '{"id": "app_1"}'.encode("utf-16"),
        '{"id": "app_1"}'.encode("utf-16-le"),
        '{"id": "app_1"}'.encode("utf-32"),
        b"[" * 100_000,
        b'{"id": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id": "a", "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        b'{"id": ' + b"1" * 5000 + b"}",
        b'{"id": "a", "duration": 1e400}',
        b'{"id": "a", "note": "\x80"}',
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-16", "application/json; charset=\xff"])
async def test_a_body_that_is_no_resource(body: bytes, kind: str) -> None:
    """HTML, other encodings, depths and lengths that no resource has: retry, whatever Content-Type claims."""
    exchange = await exchange_with(saying(answer("200 OK", body, f"Content-Type: {kind}")))
    assert isinstance(exchange.outcome, Retry)
    assert exchange.outcome.status == 200


async def test_of_a_key_that_is_there_twice_the_last_counts() -> None:
    """As it does for Postgres, which gets the text."""
    exchange = await exchange_with(saying(answer("200 OK", b'{"id": "a", "note": "x", "note": "y", "id": "b"}')))
    assert isinstance(exchange.outcome, Synced)
    assert (exchange.outcome.resource.id, exchange.outcome.resource.note) == ("b", "y")


async def test_what_is_said_to_a_rejection_comes_through_the_wire() -> None:
    """The words are kept for a person, and are in no repr: they quote the patient's note."""
    said = {"message": "Mrs Miller has the flu", "errors": {"note": ["Mrs Miller has the flu"]}}
    exchange = await exchange_with(saying(answer("422 No", json.dumps(said).encode())))
    assert isinstance(exchange.outcome, Rejected)
    assert exchange.outcome.messages is not None
    assert json.loads(exchange.outcome.messages) == said
    assert exchange.outcome.reason == "422 validation failed: note"
    assert "Miller" not in repr(exchange)
