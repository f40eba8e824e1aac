"""What `check` finds on this host, without a database: configuration, tokens, the API's address and our own."""

from __future__ import annotations

import asyncio
import datetime
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme

from tests.support.certificates import ca_file, server_context
from tests.support.checking import by_name, holds, settings_for
from tests.support.proxy import connect_proxy
from tests.support.rawserver import answer, bare_server, closed_port, raw_server, saying, silent
from worker.addresses import parse_listen
from worker.check import Finding, Verdict, check
from worker.check.api import reach
from worker.check.config import read
from worker.check.files import tokens
from worker.check.listen import listen
from worker.check.page import page
from worker.config import ApiSettings, HttpSettings, Settings, load, validated
from worker.errors import ConfigError

FINE, HM, BAD = Verdict.OK, Verdict.WARNING, Verdict.FAILED
SECRET = "s3cret-2f9c"


# -- http.listen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", None),
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("localhost:80", ("localhost", 80)),
        ("clinic-1.example:65535", ("clinic-1.example", 65535)),
        ("[::1]:9464", ("::1", 9464)),
        ("[::]:0", ("::", 0)),
    ],
)
def test_addresses(text: str, place: tuple[str, int] | None) -> None:
    """Host and port; an IPv6 address stands in brackets; nothing is off."""
    assert parse_listen(text) == place


@pytest.mark.parametrize(
    "text", ["9464", ":9464", "127.0.0.1", "127.0.0.1:", "h:65536", "::1:9464", "[::1]", "[h]:1", "[1:2]:3", "a b:1",
             "http://h:1", "h:1/x", "h:-1", "h:+1", "h:٣", " h:1", "h:1\n"]
)  # fmt: skip
def test_bad_addresses(text: str) -> None:
    """A bad one is an error of the configuration, which names the key and how to write it."""
    with pytest.raises(ConfigError, match=r"http\.listen: must be HOST:PORT, such as 127\.0\.0\.1:9464"):
        validated({"http": {"listen": text}})


async def test_a_free_address() -> None:
    """It can be listened on, any port will do, or nothing is asked for. Afterwards it is still free."""
    port = closed_port()
    for _ in range(2):
        holds(await listen(f"127.0.0.1:{port}"), FINE, "is free")
    holds(await listen("localhost:0"), FINE, "is free")
    holds(await listen(""), FINE, "no address is opened")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_service_is_there(host: str) -> None:
    """Our own service has the address: as it should be, if it is the only one that is to run."""
    async with raw_server(saying(answer("200 OK", b"caspen-sync 1.0: alive\n"))) as service:
        said = "a service is running there; a second one needs another address"
        holds(await listen(f"{host}:{service.port}"), FINE, said)
        assert [request.path for request in service.requests] == ["/livez"]


@pytest.mark.parametrize("body", [b"hello", b""])
async def test_somebody_else_is_there(body: bytes) -> None:
    """Another program answers, in HTTP or not at all: the port is taken."""
    async with raw_server(saying(answer("200 OK", body))) as other:
        holds(await listen(f"127.0.0.1:{other.port}"), BAD, "address already in use", "set http.listen to a free port")
    async with raw_server(saying(b"220 smtp\r\n")) as other:
        holds(await listen(f"127.0.0.1:{other.port}"), BAD, "address already in use", "http.listen")


@pytest.mark.parametrize(
    ("text", "said"),
    [("203.0.113.7:9464", "cannot assign requested address"), ("nosuch.invalid:9464", "this name is not known")],
)
async def test_no_address_of_ours(text: str, said: str) -> None:
    """An address of somebody else's cannot be listened on."""
    holds(await listen(text), BAD, said, "an address of this host")


# -- the configuration -----------------------------------------------------------------------------------------------


def config(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither variables nor a file where the tests run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("worker.config.DEFAULT_FILES", ())


def test_the_file_and_what_beats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file by its name, and the variables by theirs; never a value."""
    monkeypatch.setenv("CASPEN_SYNC_DATABASE__DSN", f"postgresql://u:{SECRET}@h/d")
    path = config(tmp_path, "")
    settings, (found,) = read(lambda: load(path), path, "postgresql://elsewhere/clinic")
    assert settings is not None
    holds(found, FINE, f"{path}; over it CASPEN_SYNC_DATABASE__DSN, --dsn")
    settings, (found,) = read(load, None, None)
    holds(found, FINE, "no file, so the defaults; over it CASPEN_SYNC_DATABASE__DSN")
    monkeypatch.delenv("CASPEN_SYNC_DATABASE__DSN")
    _, (found,) = read(Settings, None, None)
    assert found.said == "no file, so the defaults"


def test_every_bad_key(tmp_path: Path) -> None:
    """Each bad key is a finding of its own, with the place to mend it."""
    path = config(tmp_path, f'[retry]\nmax_attempts = 0\n[http]\nlisten = "{SECRET}"\n[databse]\n')
    settings, found = read(lambda: load(path), path, None)
    assert settings is None
    assert [finding.said.partition(": ")[2].partition(":")[0] for finding in found] == [
        "retry.max_attempts",
        "http.listen",
        "databse",
    ]
    for finding in found:
        holds(finding, BAD, str(path), "config.example.toml")
        assert finding.exit_code == 78
        assert SECRET not in finding.said


@pytest.mark.parametrize(
    ("text", "mode", "verdict"),
    [
        (f'[database]\ndsn = "postgresql://u:{SECRET}@h/d"', 0o644, HM),
        (f'[accounts.default]\ntoken = "{SECRET}"', 0o604, HM),
        (f'[accounts.default]\ntoken = "{SECRET}"', 0o640, FINE),
        (f'[http]\ntoken = "{SECRET}"', 0o644, HM),
        ('[database]\ndsn = "postgresql://u@h/d"', 0o644, FINE),
    ],
)
def test_a_secret_for_all_to_read(tmp_path: Path, text: str, mode: int, verdict: Verdict) -> None:
    """A file with a password or a token is nobody else's."""
    path = config(tmp_path, text, mode)
    _, (found,) = read(lambda: load(path), path, None)
    holds(found, verdict, str(path), f"chmod o-rwx {path}" if verdict is HM else "")
    assert SECRET not in found.said


async def test_without_a_configuration_all_is_skipped(tmp_path: Path) -> None:
    """Whatever needs it says so, and nothing else is wrong."""
    path = config(tmp_path, "[nothing]")
    first, *others = await check(lambda: load(path), flag=path)
    assert (first.name, first.verdict) == ("config", BAD)
    assert len(others) == 21
    assert {(other.verdict, other.said) for other in others} == {(Verdict.SKIPPED, "needs the config")}


# -- tokens ----------------------------------------------------------------------------------------------------------


def with_token_files(**files: Path) -> Settings:
    return settings_for(accounts={name: {"token_file": str(path)} for name, path in files.items()})


def token_file(folder: Path, name: str, text: str, mode: int = 0o600) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return path


def test_token_files(tmp_path: Path) -> None:
    """Each account's token: in a file, missing, empty, for all to read, and the same as another's."""
    files = {
        "east": token_file(tmp_path, "east", f"{SECRET}1\n"),
        "north": tmp_path / "missing",
        "south": token_file(tmp_path, "south", "\n"),
        "up": token_file(tmp_path, "up", f"{SECRET}2\n", 0o644),
        "west": token_file(tmp_path, "west", f"{SECRET}1"),
    }
    sources, (east, north, south, up, west) = tokens(with_token_files(**files))
    assert sorted(sources) == ["east", "up", "west"]
    holds(east, FINE, f"account east: in {files['east']}")
    holds(north, BAD, "accounts.north.token_file: cannot read", "write the token into that file")
    holds(south, BAD, "accounts.south.token_file", "write the token")
    assert (north.exit_code, south.exit_code) == (78, 78)
    holds(up, HM, "every user of this host can read", f"chmod 600 {files['up']}")
    holds(west, HM, "account west has account east's token", "a token of its own")
    assert not any(SECRET in finding.said for finding in (east, north, south, up, west))


def test_other_tokens() -> None:
    """One that stands in the settings, and none at all."""
    _, (found,) = tokens(settings_for())
    holds(found, FINE, "account default: in the settings themselves")
    _, (found,) = tokens(settings_for(accounts={"default": {}}))
    holds(found, BAD, "accounts.default: has no token", "set token_file")


# -- who may look ----------------------------------------------------------------------------------------------------

PAGE_TOKEN = "page-token-5f0e1c"
EVERYWHERE = ["0.0.0.0:0", "[::]:0", "192.0.2.1:9464", "clinic.example:9464"]


def page_of(**http: object) -> Finding:
    found = page(HttpSettings.model_validate(http), {})
    assert PAGE_TOKEN not in f"{found}"
    return found


@pytest.mark.parametrize("listen", ["127.0.0.9:0", "[::1]:0", "localhost:0"])
def test_a_page_for_this_host(listen: str, tmp_path: Path) -> None:
    """On loopback it needs no token, and what that means is said; with one, where it is."""
    holds(page_of(listen=listen), FINE, "all on this host can look, but neither read what changes say nor change")
    holds(page_of(listen=listen, token=PAGE_TOKEN), FINE, "its token is in the settings themselves")
    file = token_file(tmp_path, "page", PAGE_TOKEN)
    holds(page_of(listen=listen, token_file=file), FINE, f"its token is in {file}")


@pytest.mark.parametrize("listen", EVERYWHERE)
def test_a_page_for_other_hosts(listen: str) -> None:
    """Beyond loopback the service does not start without a token, and so that is a failure; with one, who looks is told
    that it travels in the clear."""
    found = page_of(listen=listen)
    holds(found, BAD, f"http.listen: other hosts can reach {listen}", "set http.token_file, or listen on 127.0.0.1")
    assert found.exit_code == 78
    holds(page_of(listen=listen, token=PAGE_TOKEN), HM, "the token travels in the clear", "ssh -L 9464:127.0.0.1:9464")


def test_no_page() -> None:
    """Where nothing listens, no token is looked at."""
    holds(page_of(listen="", token_file="/nowhere"), FINE, "http.listen is empty: there is no page")


def test_page_token_files(tmp_path: Path) -> None:
    """A token that cannot be read or could be guessed is a failure, as at the start of the service; one that is for all
    to read, or an account's, works."""
    found = page_of(token_file=tmp_path / "missing")
    holds(found, BAD, "http.token_file: cannot read", "write a token into that file")
    assert found.exit_code == 78
    holds(page_of(token_file=token_file(tmp_path, "empty", "\n")), BAD, "is empty", "make one: openssl rand -hex 24")
    holds(page_of(token="short"), BAD, "http.token: must have 16 characters or more", "openssl rand -hex 24")
    for place in ("127.0.0.1:0", "0.0.0.0:0"):
        file = token_file(tmp_path, "open", PAGE_TOKEN, 0o644)
        holds(page_of(listen=place, token_file=file), HM, f"every user of this host can read {file}", "chmod 600")
    sources, _ = tokens(settings_for(accounts={"default": {"token": PAGE_TOKEN}, "north": {"token": SECRET}}))
    found = page(HttpSettings.model_validate({"token": PAGE_TOKEN}), sources)
    holds(found, HM, "it asks for account default's token", "a token of its own")


# -- the API's address -----------------------------------------------------------------------------------------------


def at(base_url: str, **others: str) -> ApiSettings:
    return ApiSettings.model_validate({"base_url": base_url, **others})


async def test_an_api_that_listens() -> None:
    """A connection is enough: not a byte is sent."""
    async with raw_server(silent()) as api:
        holds(await reach(at(api.base_url)), FINE, f"127.0.0.1, port {api.port}: it listens")
        assert api.connections == 1
    assert bytes(api.received) == b""


async def test_an_api_with_a_certificate(tmp_path: Path) -> None:
    """TLS is spoken, and the certificate checked against what is trusted."""
    ours, theirs = trustme.CA(), trustme.CA()
    trusted = str(ca_file(ours, tmp_path))
    async with raw_server(silent(), context=server_context(ours)) as api:
        holds(await reach(at(api.base_url, ca_file=trusted)), FINE, "TLSv1.3, with a certificate that is trusted")
        assert bytes(api.received) == b""
        found = await reach(at(api.base_url))
        holds(found, BAD, "its certificate is not trusted: ", "is api.base_url right")
        assert found.exit_code == 69
    expired = server_context(theirs, expired_for=datetime.timedelta(days=1))
    async with raw_server(silent(), context=expired) as api:
        holds(await reach(at(api.base_url, ca_file=str(ca_file(theirs, tmp_path)))), BAD, "certificate has expired")

    async def speak_first(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp\r\n")
        await writer.drain()

    async with bare_server(speak_first) as port:
        holds(await reach(at(f"https://localhost:{port}/v1")), BAD, "it does not speak TLS 1.2 or newer there")
    holds(await reach(at("https://localhost/v1", ca_file="/nowhere")), BAD, "api.ca_file: /nowhere", "name a PEM file")


async def test_an_api_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, the name is not known, or there is silence: 69 and why."""
    found = await reach(at(f"http://127.0.0.1:{closed_port()}/v1"))
    holds(found, BAD, "Connection refused", "is api.base_url right")
    assert found.exit_code == 69
    holds(await reach(at("https://nosuch.invalid/v1")), BAD, "this name is not known", "api.base_url")

    async def say_nothing(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("worker.check.api.REACH_S", 0.1)
    async with bare_server(say_nothing) as port:
        holds(await reach(at(f"https://localhost:{port}/v1")), BAD, "no answer within 0.1 s")


async def test_through_a_proxy() -> None:
    """The proxy is reached, and is asked for nothing; its password is not said."""
    async with connect_proxy() as proxy:
        url = f"http://u:{SECRET}@127.0.0.1:{proxy.port}"
        found = await reach(at("https://api.example/v1", proxy=url))
        holds(found, FINE, f"the proxy 127.0.0.1, port {proxy.port}: it listens; whether it reaches the API")
        assert proxy.heads == []
    found = await reach(at("https://api.example/v1", proxy=f"http://u:{SECRET}@127.0.0.1:{closed_port()}"))
    holds(found, BAD, "the proxy 127.0.0.1", "is api.proxy right")
    assert SECRET not in found.said


# -- threads ---------------------------------------------------------------------------------------------------------

HANGS = """
import asyncio, time
from worker.threads import DetachedThreads

async def main():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(DetachedThreads())
    assert await loop.run_in_executor(None, lambda: 7) == 7
    try:
        await loop.run_in_executor(None, int, "x")
    except ValueError:
        print("raised")
    try:
        async with asyncio.timeout(0.1):
            await loop.run_in_executor(None, time.sleep, 60)
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""


def test_a_resolver_that_hangs_holds_up_nobody() -> None:
    """Results and errors come through; what hangs is left behind when the process ends."""
    began = time.monotonic()
    ours = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=30, check=True, cwd=ours
    )
    assert ended.stdout.split("\n")[:2] == ["raised", "given up"]
    assert ended.stderr == ""
    assert time.monotonic() - began < 20


async def test_findings_of_a_whole_run_have_names_of_their_own() -> None:
    """One finding for each name when there is one account, and each that is not well has a mend."""
    settings = settings_for(f"postgresql://127.0.0.1:{closed_port()}/clinic")
    found = by_name(await check(lambda: settings))
    assert {name for name, one in found.items() if one.verdict is BAD} == {"database", "api"}
    for one in found.values():
        holds(one, one.verdict, one.said)


def test_sockets_are_given_back() -> None:
    """The address that was looked at can be bound right afterwards."""
    port = closed_port()
    asyncio.run(listen(f"127.0.0.1:{port}"))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
