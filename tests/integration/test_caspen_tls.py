"""Whom the HTTP client trusts: the token goes to a server that proves its name by TLS 1.2 or newer, or nowhere."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.support.certificates import ca_file, server_context
from tests.support.rawserver import answer, raw_server, saying
from worker import clock
from worker.caspen import Caspen
from worker.errors import ConfigError
from worker.outcome import NotSent, Outcome, Synced
from worker.tls import client_context

TOKEN = "tok-5f0e1c"
RESPOND = saying(answer("200 OK", b'{"id": "app_1"}'))


async def send(base_url: str, trusted: Path | None) -> Outcome:
    async with Caspen(base_url, timeout_s=10, ca_file=trusted) as caspen:
        exchange = await caspen.send(caspen.request("app_1", {"note": None}), token=TOKEN, deadline=clock.now() + 60)
    return exchange.outcome


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_private_authority(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """With `api.ca_file`, a server with a certificate of that authority is spoken to, by TLS 1.2 and 1.3."""
    authority = trustme.CA()
    context = server_context(authority)
    context.minimum_version = context.maximum_version = version
    async with raw_server(RESPOND, context=context) as server:
        assert isinstance(await send(server.base_url, ca_file(authority, tmp_path)), Synced)
        assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


async def test_only_the_named_authority_is_trusted(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`api.ca_file` stands instead of the system's certificates and not beside them."""
    system, private = trustme.CA(), trustme.CA()
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file(system, tmp_path_factory.mktemp("system"))))
    async with raw_server(RESPOND, context=server_context(system)) as server:
        assert isinstance(await send(server.base_url, None), Synced)
        assert isinstance(await send(server.base_url, ca_file(private, tmp_path)), NotSent)
        assert len(server.requests) == 1


async def test_several_authorities_in_one_file(tmp_path: Path) -> None:
    """All certificates of the file are trusted: that is how an authority is replaced."""
    old, new = trustme.CA(), trustme.CA()
    path = tmp_path / "both.pem"
    path.write_bytes(b"# the old one\n" + old.cert_pem.bytes() + "# …\n".encode() + new.cert_pem.bytes())
    for authority in (old, new):
        async with raw_server(RESPOND, context=server_context(authority)) as server:
            assert isinstance(await send(server.base_url, path), Synced)


Context = Callable[[trustme.CA], ssl.SSLContext]


@pytest.mark.parametrize(
    "context",
    [
        lambda _: server_context(trustme.CA()),
        lambda authority: server_context(authority, "api.caspen.com"),
        lambda authority: server_context(authority, "127.0.0.1"),
        lambda authority: server_context(authority, expired_for=datetime.timedelta(hours=1)),
    ],
    ids=["authority", "host", "address", "expired"],
)
async def test_a_certificate_that_proves_nothing(tmp_path: Path, context: Context) -> None:
    """Another authority's, another host's or an expired one: not sent, and the reason names the certificate."""
    authority = trustme.CA()
    async with raw_server(RESPOND, context=context(authority)) as server:
        outcome = await send(server.base_url, ca_file(authority, tmp_path))
        assert isinstance(outcome, NotSent)
        assert "Certificate" in outcome.reason
        assert not server.received


async def test_a_server_of_yesterday(tmp_path: Path) -> None:
    """A server that goes no further than TLS 1.1: not sent. A client that would take it gets through to it."""
    authority = trustme.CA()
    context = server_context(authority)
    lenient = ssl.create_default_context(cafile=ca_file(authority, tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for old in (context, lenient):
            old.set_ciphers("ALL:@SECLEVEL=0")
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with raw_server(RESPOND, context=context) as server:
        _, writer = await asyncio.open_connection("localhost", server.port, ssl=lenient)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.1"
        writer.transport.abort()
        assert isinstance(await send(server.base_url, ca_file(authority, tmp_path)), NotSent)
        assert not server.received


@pytest.mark.parametrize("own", [True, False])
def test_what_the_context_asks_for(tmp_path: Path, *, own: bool) -> None:
    """TLS 1.2 at least, a certificate, and the right name in it, whoever is trusted."""
    context = client_context(ca_file(trustme.CA(), tmp_path) if own else None)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not own or context.cert_store_stats()["x509"] == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "holds no certificate"),
        ("hello", "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "holds no certificate"),
        ("\xff\x00", "holds no certificate"),
    ],
)
@pytest.mark.parametrize("base_url", ["https://api.caspen.com/v1", "http://127.0.0.1/v1"])
def test_a_file_without_certificates(base_url: str, tmp_path: Path, content: str | None, problem: str) -> None:
    """Said when the client is made, before anything is sent: the key, the file, what is wrong with it and the mend."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError) as caught:
        Caspen(base_url, timeout_s=10, ca_file=path)
    line = str(caught.value)
    assert line.startswith(f"api.ca_file: {path}: {problem}")
    assert line.endswith("; name a PEM file with the certificates to trust")
    assert "\n" not in line


@pytest.mark.parametrize("name", [".", "no\x00name", "a" * 300])
def test_a_path_that_is_no_file(tmp_path: Path, name: str) -> None:
    """A directory, and names that no file can have: the same line."""
    with pytest.raises(ConfigError, match=r"^api\.ca_file: .*: cannot be read: "):
        client_context(tmp_path / name)


def test_a_private_key_is_no_certificate(tmp_path: Path) -> None:
    """A file with a key alone is refused, and nothing of it is quoted."""
    path = tmp_path / "key.pem"
    trustme.CA().private_key_pem.write_to_path(str(path))
    with pytest.raises(ConfigError, match="holds no certificate") as caught:
        client_context(path)
    assert "PRIVATE" not in str(caught.value)
