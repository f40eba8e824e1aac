"""The HTTP client against a network and a server at their worst: one Outcome, never an exception."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rawserver import (
    Respond,
    answer,
    bare_server,
    closed_port,
    dripping,
    raw_server,
    resetting,
    saying,
    silent,
)
from worker import clock
from worker.answers import ANSWER_MAX_BYTES
from worker.caspen import Caspen
from worker.outcome import NotSent, Outcome, Refused, Rejected, Retry, Synced, Throttled, Unknown

TOKEN = "tok-5f0e1c"
SECRET = "Mrs Miller has the flu"
RESOURCE = b'{"id": "app_1"}'
KINDS = (Synced, NotSent, Retry, Unknown, Throttled, Refused, Rejected)


async def send(base_url: str, *, timeout_s: float = 10) -> Outcome:
    async with Caspen(base_url, timeout_s=timeout_s) as caspen:
        exchange = await caspen.send(caspen.request("app_1", {"note": SECRET}), token=TOKEN, deadline=clock.now() + 60)
    assert isinstance(exchange.outcome, KINDS)
    assert TOKEN not in repr(exchange)
    assert SECRET not in repr(exchange)
    return exchange.outcome


async def outcome_of(respond: Respond, *, timeout_s: float = 10) -> Outcome:
    async with raw_server(respond) as server:
        outcome = await send(server.base_url, timeout_s=timeout_s)
        assert len(server.requests) == 1, "a request that may have been done is never sent again by the client"
    return outcome


# -- nothing was sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_connection_refused(scheme: str) -> None:
    """Nobody listens: not sent."""
    assert isinstance(await send(f"{scheme}://127.0.0.1:{closed_port()}/v1"), NotSent)


async def test_why_nothing_was_sent() -> None:
    """The reason says in the system's own words what the matter is: people read it in the log and in `last_error`."""
    outcome = await send(f"http://127.0.0.1:{closed_port()}/v1")
    assert isinstance(outcome, NotSent)
    assert "Connection refused" in outcome.reason


@pytest.mark.parametrize("host", ["caspen.invalid", "a..b", "a" * 70, "caspen.invalid:99999"])
async def test_no_such_host(host: str) -> None:
    """A name that does not resolve, or is none: not sent."""
    assert isinstance(await send(f"https://{host}/v1", timeout_s=3), NotSent)


async def test_tls_spoken_to_a_plain_server() -> None:
    """The other side does not speak TLS: not sent, and what it got holds no token."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(4096))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.transport.abort()

    async with bare_server(serve) as port:
        assert isinstance(await send(f"https://127.0.0.1:{port}/v1"), NotSent)
    assert received
    assert TOKEN.encode() not in received


async def test_a_certificate_that_nobody_vouches_for() -> None:
    """A certificate of an authority that nobody knows: not sent; the token stays here."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(4096))
        writer.transport.abort()

    async with bare_server(serve, context=context) as port:
        outcome = await send(f"https://localhost:{port}/v1")
    assert isinstance(outcome, NotSent)
    assert "Certificate" in outcome.reason
    assert not received


async def test_a_handshake_without_end() -> None:
    """The server accepts and never shakes hands: not sent, after the timeout."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            received.extend(data)
        writer.transport.abort()

    async with bare_server(serve) as port:
        outcome = await send(f"https://127.0.0.1:{port}/v1", timeout_s=0.3)
    assert isinstance(outcome, NotSent)
    assert outcome.reason == "no connection within 0.3 s"
    assert TOKEN.encode() not in received


async def test_a_server_that_does_not_accept() -> None:
    """Its queue of connections is full: not sent, and not sent either once it accepts again."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        listener.setblocking(False)
        address = listener.getsockname()
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        outcome = await send(f"http://127.0.0.1:{address[1]}/v1", timeout_s=0.3)
        assert isinstance(outcome, NotSent)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection = sockets.enter_context(listener.accept()[0])
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    assert connection.recv(1) == b""


# -- sent, and no answer ---------------------------------------------------------------------------------------------


async def test_no_answer_in_time() -> None:
    """The server got the request and says nothing: unknown."""
    outcome = await outcome_of(silent(), timeout_s=0.2)
    assert isinstance(outcome, Unknown)
    assert outcome.reason == "no answer within 0.2 s"


@pytest.mark.parametrize("status", ["200 OK", "422 No"])
async def test_an_answer_that_drips_without_end(status: str) -> None:
    """The timeout covers the last byte of the answer, not only the first."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: 1000000\r\n\r\n".encode()
    started_at = clock.now()
    outcome = await outcome_of(dripping(head, b" "), timeout_s=0.4)
    assert isinstance(outcome, Unknown)
    assert clock.now() - started_at < 5


async def test_headers_that_drip_without_end() -> None:
    """Neither may the headers take longer."""
    assert isinstance(await outcome_of(dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), timeout_s=0.4), Unknown)


@pytest.mark.parametrize(
    "respond", [resetting(), resetting(b"HTTP/1.1 2"), saying(b""), saying(b"HTTP/1.1 200 OK\r\nX: ")]
)
async def test_the_connection_ends_before_the_answer(respond: Respond) -> None:
    """Reset or closed before the headers are in: unknown."""
    outcome = await outcome_of(respond)
    assert isinstance(outcome, Unknown)
    assert outcome.status is None


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/9.9 200\r\n\r\n",
        b"\x16\x03\x01\x00\xff",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
async def test_an_answer_that_is_no_http(raw: bytes) -> None:
    """Garbage, a huge header, too many headers, lengths that contradict: unknown, since nothing was learnt."""
    assert isinstance(await outcome_of(saying(raw)), Unknown)


# -- done, and not told ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id": ',
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + RESOURCE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{",
    ],
)
async def test_an_answer_that_is_cut_short(raw: bytes) -> None:
    """A 2xx that ends in the middle of its body: retry, with the status."""
    outcome = await outcome_of(saying(raw))
    assert isinstance(outcome, Retry)
    assert (outcome.status, outcome.reason) == (200, "200 with an answer that was cut short")


async def test_a_reset_in_the_middle_of_the_body() -> None:
    """The same when the connection is reset; should the reset overtake the head, nothing was learnt."""
    outcome = await outcome_of(resetting(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"))
    assert isinstance(outcome, Retry | Unknown)


@pytest.mark.parametrize("length", [ANSWER_MAX_BYTES + 1, 8 * ANSWER_MAX_BYTES])
async def test_an_oversized_answer(length: int) -> None:
    """More than a MiB is no AppointmentResource, with or without a Content-Length."""
    body = b'{"id": "' + b"a" * length + b'"}'
    for raw in (answer("200 OK", body), b"HTTP/1.1 200 OK\r\n\r\n" + body):
        outcome = await outcome_of(saying(raw))
        assert isinstance(outcome, Retry)
        assert "more than" in outcome.reason


async def test_an_answer_without_end_at_full_speed() -> None:
    """It is given up at the size limit, long before the timeout."""
    outcome = await outcome_of(dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536, every_s=0), timeout_s=60)
    assert isinstance(outcome, Retry)


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": "\xff\xfe"}',
        '{"id": "é"}'.encode("latin-1"),
        b'{"id": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id": "a", "x": ' * 20_000,
        b'{"id": "a", "x": ' + b"1" * 100_000 + b"}",
        b'{"id": "a", "x": "\\ud800"}',
        b'{"id": "a", "starts_at": "yesterday"}',
        b'{"id": "a", "starts_at": 1e300}',
        b'\xef\xbb\xbf{"id": "a"}',
    ],
)
async def test_a_body_that_cannot_be_read(body: bytes) -> None:
    """Not UTF-8, too deep, too long a number, half a character, no time: retry."""
    outcome = await outcome_of(saying(answer("200 OK", body)))
    assert isinstance(outcome, Retry)
    assert outcome.status == 200


# -- whatever comes --------------------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        b"HTTP/1.1 ",
        b"200",
        b"204",
        b"429",
        b"500",
        b" OK",
        b"\r\n",
        b"\r\n\r\n",
        b"Content-Length: ",
        b"10",
        b"0",
        b"5\r\n",
        b"Retry-After: ",
        b"Transfer-Encoding: chunked",
        b"Content-Encoding: gzip",
        b"Location: http://127.0.0.1:9/",
        RESOURCE,
        b"\x00",
        b"\xff",
    ]
)


@given(raw=st.lists(_PIECES | st.binary(max_size=8), max_size=14).map(b"".join))
@settings(max_examples=150)
def test_any_bytes_come_to_one_outcome(raw: bytes) -> None:
    """Whatever bytes a server answers with, there is one outcome and no exception."""
    asyncio.run(outcome_of(saying(raw), timeout_s=5))


@given(body=st.binary(max_size=64) | st.text(max_size=64).map(str.encode), status=st.integers(100, 999))
@settings(max_examples=100)
def test_any_status_and_body_come_to_one_outcome(body: bytes, status: int) -> None:
    """The same for well-formed answers of any status and body; an interim answer alone is no answer."""
    asyncio.run(outcome_of(saying(answer(f"{status} Whatever", body)), timeout_s=5))


async def test_a_cancelled_send_leaves_nothing_behind() -> None:
    """Cancelling is the one thing that is not turned into an outcome; the connection is closed with it."""
    received, hung_up = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            received.set()
        hung_up.set()
        writer.transport.abort()

    async with bare_server(serve) as port, Caspen(f"http://127.0.0.1:{port}/v1", timeout_s=60) as caspen:
        task = asyncio.create_task(
            caspen.send(caspen.request("app_1", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        )
        async with asyncio.timeout(10):
            await received.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await hung_up.wait()
