"""The HTTP client through a proxy: CONNECT and TLS, so that the proxy learns the API's name and nothing else."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.support.certificates import ca_file, server_context
from tests.support.proxy import connect_proxy
from tests.support.rawserver import RawServer, answer, closed_port, keeping_alive, raw_server, silent
from worker import clock
from worker.caspen import Caspen
from worker.outcome import NotSent, Outcome, Synced, Unknown

TOKEN = "tok-5f0e1c"
NOTE = "Mrs Miller has the flu"
PASSWORD = "pa55-2f9c"
RESPOND = keeping_alive(answer("200 OK", b'{"id": "app_1"}'))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    return ca_file(authority, tmp_path)


async def send(
    server: RawServer,
    trusted: Path,
    proxy: str,
    *,
    timeout_s: float = 10,
    times: int = 1,
    now: Callable[[], float] = clock.now,
    room_s: float = 60,
) -> Outcome:
    """The outcome of the last of some requests in a row. No word of the proxy's password is in any of them."""
    async with Caspen(server.base_url, timeout_s=timeout_s, ca_file=trusted, proxy=proxy, now=now) as caspen:
        for _ in range(times):
            exchange = await caspen.send(caspen.request("app_1", {"note": NOTE}), token=TOKEN, deadline=now() + room_s)
    assert PASSWORD not in repr(exchange)
    return exchange.outcome


async def test_a_request_goes_through_the_tunnel(authority: trustme.CA, trusted: Path) -> None:
    """The proxy sees a CONNECT and then TLS; a second request goes through the same tunnel."""
    async with raw_server(RESPOND, context=server_context(authority)) as server, connect_proxy() as proxy:
        assert isinstance(await send(server, trusted, proxy.url, times=2), Synced)
        assert (server.connections, len(server.requests), len(proxy.heads)) == (1, 2, 1)
        assert proxy.heads[0].startswith(f"CONNECT localhost:{server.port} HTTP/1.1\r\n")
        assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
        assert "proxy-authorization" not in server.requests[0].headers
        for secret in (TOKEN, NOTE, "app_1"):
            assert secret not in proxy.heads[0]
            assert secret.encode() not in proxy.passed


async def test_the_proxy_gets_its_user_and_password(authority: trustme.CA, trusted: Path) -> None:
    """They stand in the URL, escaped where they have to be, and go to the proxy alone."""
    async with raw_server(RESPOND, context=server_context(authority)) as server, connect_proxy() as proxy:
        url = proxy.url.replace("//", f"//us%40er:{PASSWORD}@")
        assert isinstance(await send(server, trusted, url), Synced)
        expected = base64.b64encode(f"us@er:{PASSWORD}".encode()).decode()
        assert f"\r\nProxy-Authorization: Basic {expected}\r\n" in proxy.heads[0]
        assert not any(expected in value for value in server.requests[0].headers.values())


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n", "the proxy of api.proxy answered 407"),
        (b"HTTP/1.1 502 No\r\nContent-Length: 5\r\n\r\nwrong", "the proxy of api.proxy answered 502"),
        (b"HTTP/1.1 302 No\r\nLocation: http://127.0.0.1:9/\r\n\r\n", "the proxy of api.proxy answered 302"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", ""),
        (b"", ""),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000, ""),
    ],
)
async def test_a_proxy_that_refuses(authority: trustme.CA, trusted: Path, refusal: bytes, reason: str) -> None:
    """Nothing of the request was sent, and the token never reached the proxy."""
    async with raw_server(RESPOND, context=server_context(authority)) as server, connect_proxy(refusal) as proxy:
        outcome = await send(server, trusted, proxy.url.replace("//", f"//user:{PASSWORD}@"), timeout_s=2)
        assert isinstance(outcome, NotSent)
        assert outcome.reason.startswith(reason)
        assert server.connections == 0
        assert all(head.startswith("CONNECT ") and TOKEN not in head for head in proxy.heads)


async def test_a_proxy_that_is_down(authority: trustme.CA, trusted: Path) -> None:
    """Not sent, in the system's words; the API is not spoken to without the proxy."""
    async with raw_server(RESPOND, context=server_context(authority)) as server:
        outcome = await send(server, trusted, f"http://user:{PASSWORD}@127.0.0.1:{closed_port()}")
        assert isinstance(outcome, NotSent)
        assert "Connection refused" in outcome.reason
        assert server.connections == 0


async def test_a_proxy_that_hangs(authority: trustme.CA, trusted: Path) -> None:
    """CONNECT is no part of the request: without an answer to it, nothing was sent."""
    async with raw_server(RESPOND, context=server_context(authority)) as server, connect_proxy(None) as proxy:
        outcome = await send(server, trusted, proxy.url, timeout_s=0.3)
        assert isinstance(outcome, NotSent)
        assert outcome.reason == "no connection within 0.3 s"
        assert len(proxy.heads) == 1


async def test_an_api_that_hangs_behind_the_proxy(authority: trustme.CA, trusted: Path) -> None:
    """Once the request is in the tunnel, silence is unknown as without a proxy."""
    async with raw_server(silent(), context=server_context(authority)) as server, connect_proxy() as proxy:
        assert isinstance(await send(server, trusted, proxy.url, timeout_s=0.5), Unknown)
        assert len(server.requests) == 1


async def test_a_stranger_behind_the_proxy(authority: trustme.CA, trusted: Path) -> None:
    """A proxy that leads elsewhere, or breaks TLS open, has no certificate for the API's name: not sent."""
    async with raw_server(RESPOND, context=server_context(trustme.CA())) as server, connect_proxy() as proxy:
        outcome = await send(server, trusted, proxy.url)
        assert isinstance(outcome, NotSent)
        assert not server.received
    async with raw_server(RESPOND, context=server_context(authority, "elsewhere")) as server, connect_proxy() as proxy:
        outcome = await send(server, trusted, proxy.url)
        assert isinstance(outcome, NotSent)
        assert not server.received


@pytest.mark.parametrize("looks", range(7))
async def test_the_clock_is_looked_at_when_the_tunnel_stands(authority: trustme.CA, trusted: Path, looks: int) -> None:
    """Wherever a frozen process thaws past its deadline: the API has the request, or it is known as not sent."""
    seen = 0

    def now() -> float:
        nonlocal seen
        seen += 1
        return 0.0 if seen <= looks else 1000.0

    async with raw_server(RESPOND, context=server_context(authority)) as server, connect_proxy() as proxy:
        async with Caspen(server.base_url, timeout_s=10, ca_file=trusted, proxy=proxy.url, now=now) as caspen:
            outcome = (await caspen.send(caspen.request("app_1", {"note": NOTE}), token=TOKEN, deadline=10.0)).outcome
        assert isinstance(outcome, NotSent if not server.received else Synced)
        # The third look is the one at the first byte: by then the tunnel stands, and CONNECT did not count as sent.
        assert len(proxy.heads) == (0 if looks < 2 else 1)
        assert bool(server.received) == (looks > 2)


async def test_the_connection_to_the_proxy_has_a_user_timeout(authority: trustme.CA, trusted: Path) -> None:
    """What is written into a dead network is not delivered later, to a proxy no more than to the API."""
    made: list[socket.socket] = []

    class Watched(Caspen):
        def _socket(self, address: tuple[object, ...]) -> socket.socket:
            made.append(super()._socket(address))
            return made[-1]

    async with (
        raw_server(RESPOND, context=server_context(authority)) as server,
        connect_proxy() as proxy,
        Watched(server.base_url, timeout_s=7, ca_file=trusted, proxy=proxy.url) as caspen,
    ):
        await caspen.send(caspen.request("app_1", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
        peers = [sock.getpeername()[1] for sock in made]
        timeouts = [sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for sock in made]
    assert (peers, timeouts) == ([proxy.port], [7000])


async def test_a_proxy_that_speaks_tls_itself(authority: trustme.CA, trusted: Path) -> None:
    """An https:// proxy has to prove its name too, before it hears its password."""
    async with raw_server(RESPOND, context=server_context(authority)) as server:
        async with connect_proxy(context=server_context(authority)) as proxy:
            assert isinstance(await send(server, trusted, f"https://u:{PASSWORD}@localhost:{proxy.port}"), Synced)
            assert proxy.heads[0].startswith("CONNECT ")
        async with connect_proxy(context=server_context(trustme.CA())) as proxy:
            assert isinstance(await send(server, trusted, f"https://u:{PASSWORD}@localhost:{proxy.port}"), NotSent)
            assert not proxy.heads
