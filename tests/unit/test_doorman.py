"""Who may look at the page and who may change something: under which names, from which pages, with which sessions."""

from __future__ import annotations

import hashlib
import itertools
import socket
import time
from collections.abc import Mapping
from http.cookies import Morsel
from pathlib import Path

import pytest
from aiohttp import HttpVersion10, web
from aiohttp.test_utils import make_mocked_request
from itsdangerous import URLSafeTimedSerializer

from tests.support import canary
from worker.config import HttpSettings
from worker.token import TokenSource
from worker.web.doorman import LONGEST_NAME, SIGNED_IN_S, Doorman, Visitor

HOST = "127.0.0.1:9464"
TOKEN = "page-token-0123456789abcdef"
OTHER_TOKEN = "page-token-fedcba9876543210"
PROXY = "sync.clinic.example"


class FromTheWire(str):
    """A header's value with bytes that may be no text, as aiohttp decodes it."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:
        return super().encode(encoding, errors)


@pytest.fixture(autouse=True)
def this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Frontdesk")


@pytest.fixture(autouse=True)
def tokens_are_withheld() -> None:
    canary.sing(TOKEN, OTHER_TOKEN)


def doorman(token: str | None = TOKEN, *, hosts: tuple[str, ...] = (), loopback: bool = True) -> Doorman:
    settings = HttpSettings.model_validate({"token": token})
    return Doorman(None if token is None else TokenSource("http", settings), hosts=hosts, loopback=loopback)


def request(host: str | None = HOST, **headers: str) -> web.BaseRequest:
    given = headers if host is None else {"Host": host, **headers}
    return make_mocked_request("GET", "/", headers={name: FromTheWire(value) for name, value in given.items()})


def from_page(host: str, origin: str | None) -> web.BaseRequest:
    return request(host, **({} if origin is None else {"Origin": origin}))


def cookie(who: Doorman, host: str = HOST, *, name: str = "Ann", **headers: str) -> Morsel[str]:
    """What the browser keeps after somebody signed in."""
    response = web.Response()
    who.let_in(request(host, **headers), response, name)
    (morsel,) = response.cookies.values()
    return morsel


def with_session(who: Doorman, session: str, host: str = HOST, *, cookie_name: str = "caspen_sync_9464") -> Visitor:
    return who.visitor(request(host, Cookie=f"{cookie_name}={session}"))


def signed(session: object, *, token: str = TOKEN, salt: str = "caspen-sync session") -> str:
    """A session as the doorman signs it."""
    options = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return str(URLSafeTimedSerializer(token, salt=salt, signer_kwargs=options).dumps(session))


def nobody(*, looks: bool = True) -> Visitor:
    return Visitor(name=None, looks=looks, token_set=True)


# -- under which names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:9464", "LOCALHOST:9464", "127.0.0.1", "127.0.0.1:9464", "192.168.7.1:80"),
        *("[::1]", "[::1]:9464", "[2001:DB8::1]:9464", "[fe80::1%25eth0]:9464"),
        *("frontdesk", "FrontDesk:9464", PROXY, "Sync.Clinic.Example:443"),
    ],
)
def test_names_of_ours(host: str) -> None:
    """IP addresses, localhost, this host's name and those in http.hosts, at any port and in any case."""
    assert doorman(hosts=(PROXY,)).is_ours(request(host))


@pytest.mark.parametrize(
    "host",
    [
        *(None, "", ":", ":9464", "evil.example", "evil.example:9464", "localhost.evil.example", "evil-localhost"),
        # What a parser could take apart otherwise than a browser does.
        *("evil.example@localhost", "user@localhost:9464", "localhost@evil.example", "localhost#.evil.example"),
        *("localhost/.evil.example", "localhost?.evil.example", "localhost\\.evil.example", "localhost, evil.example"),
        *("[::1", "::1]", "::1", "[::1].evil.example", "[evil.example]", "[]", "[localhost]:9464"),
        # Names that resolve like ours, but stand under no name of ours.
        *("localhost.", "127.0.0.1.", "2130706433", "0x7f.1", "127.1", "127.0.0.1.nip.io", "frontdesk.local"),
        *(f".{PROXY}", f"a.{PROXY}", f"{PROXY}.", "\udcff", "localhos\u2168", "\u2150[", "127.0.0.\uff11"),
    ],
)
def test_names_that_are_not(host: str | None) -> None:
    """Under a name of somebody else's, or under what is no name, nothing is answered: that ends DNS rebinding."""
    assert not doorman(hosts=(PROXY,)).is_ours(request(host))


# -- from which pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:9464", "http://127.0.0.1:9464"),
        ("localhost:9464", "http://localhost:9464"),
        ("LocalHost:9464", "http://localhost:9464"),
        ("[::1]:9464", "http://[::1]:9464"),
        ("frontdesk:9464", "http://frontdesk:9464"),
        ("frontdesk", "http://frontdesk"),
        (PROXY, f"https://{PROXY}"),
        # The proxy asks us under our own address.
        ("127.0.0.1:9464", f"https://{PROXY}"),
        ("127.0.0.1:9464", f"https://{PROXY}:8443"),
        ("127.0.0.1:9464", f"HTTPS://{PROXY.upper()}"),
    ],
)
def test_forms_of_ours(host: str, origin: str) -> None:
    """From the address that is asked, or from a proxy's that is in http.hosts."""
    assert doorman(hosts=(PROXY,)).is_from_us(from_page(host, origin))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        *((HOST, origin) for origin in (None, "", "null", "http://", "https:///", "http:127.0.0.1:9464", HOST)),
        # Neighbours: other ports of this host, whose cookies are ours.
        *((HOST, origin) for origin in ("http://127.0.0.1", "http://127.0.0.1:3000", "http://localhost:9464")),
        *(("localhost:9464", origin) for origin in ("http://localhost", "http://localhost:3000", "http://[::1]:9464")),
        ("frontdesk:9464", "http://frontdesk:3000"),
        (HOST, "http://frontdesk"),
        ("[::1]:9464", "http://[::1]:3000"),
        # Others.
        *((HOST, origin) for origin in ("http://evil.example", f"https://{PROXY}.evil.example", f"https://a.{PROXY}")),
        *((HOST, origin) for origin in (f"ftp://{HOST}", f"file://{HOST}", f"chrome-extension://{HOST}", "data:,x")),
        *((HOST, origin) for origin in (f"http://user@{HOST}", f"https://{PROXY}@evil.example", f"http://{HOST}/")),
        *((HOST, origin) for origin in (f"https://evil.example#{PROXY}", f"https://{PROXY}.", "http://[::1", "\udcff")),
        ("", "http://"),
        ("user@x", "http://user@x"),
    ],
)
def test_forms_of_others(host: str, origin: str | None) -> None:
    """From any other page, a neighbour's at another port among them, from one that has no address, and from whoever
    does not say: and what is no address is no fault of ours."""
    assert not doorman(hosts=(PROXY,)).is_from_us(from_page(host, origin))


# -- who it is ---------------------------------------------------------------------------------------------------------


def test_without_a_token() -> None:
    """Whoever reaches a loopback address looks, and nobody can sign in or change anything."""
    who = doorman(None)
    visitor = who.visitor(request(Cookie=f"caspen_sync_9464={signed({'name': 'Ann'})}"))
    assert visitor == Visitor(name=None, looks=True, token_set=False)
    assert not visitor.may_change
    assert not who.is_token("")
    response = web.Response()
    who.let_in(request(), response, "Ann")
    assert not response.cookies


@pytest.mark.parametrize("loopback", [True, False])
def test_nobody_has_signed_in(loopback: bool) -> None:
    """Who comes from this host looks; from elsewhere they do not; neither changes anything."""
    visitor = doorman(loopback=loopback).visitor(request())
    assert visitor == nobody(looks=loopback)
    assert not visitor.may_change


def test_signed_in() -> None:
    """Under the name they gave, from anywhere, and with a word for their forms."""
    who = doorman(loopback=False)
    visitor = with_session(who, cookie(who).value)
    assert (visitor.name, visitor.looks, visitor.token_set, visitor.by_token) == ("Ann", True, True, False)
    assert visitor.may_change
    assert len(visitor.form_word) == 64
    assert with_session(
        who, signed({"name": "Ann", "nonce": "n"})
    ).may_change  # as the tests of forged ones sign theirs


def test_what_the_browser_keeps() -> None:
    """Only for us, not for scripts, not for other sites' requests, for twelve hours; where the page came by https, only
    that way. The name of it has the port, since the cookies of a host are shared by all its ports. The token is not in
    it."""
    morsel = cookie(doorman())
    assert (morsel.key, morsel["path"], morsel["httponly"], morsel["samesite"]) == (
        "caspen_sync_9464",
        "/",
        True,
        "Lax",
    )
    assert (morsel["max-age"], morsel["secure"], morsel["domain"]) == (str(SIGNED_IN_S), False, "")
    assert TOKEN not in morsel.value
    assert cookie(doorman(), Origin="https://sync.clinic.example")["secure"] is True
    names = {host: cookie(doorman(), host).key for host in ("localhost", "[::1]", "[::1]:9465", "localhost:٣")}
    assert names == {
        "localhost": "caspen_sync_80",
        "[::1]": "caspen_sync_80",
        "[::1]:9465": "caspen_sync_9465",
        "localhost:٣": "caspen_sync_80",
    }


def test_signing_out() -> None:
    """The cookie goes: this service's, not that of a neighbour."""
    response = web.Response()
    Doorman.let_out(request("localhost:9465"), response)
    (morsel,) = response.cookies.values()
    assert (morsel.key, morsel.value, morsel["max-age"], morsel["path"]) == ("caspen_sync_9465", "", "0", "/")


def test_a_long_name_is_cut() -> None:
    """A cookie has a bound, and so has what is written down of who did something."""
    who = doorman()
    assert with_session(who, cookie(who, name="n" * 500).value).name == "n" * LONGEST_NAME


def test_a_session_ends() -> None:
    """After twelve hours, whatever the browser keeps; and one from the future is none."""
    who = doorman(loopback=False)
    session, began = cookie(who).value, time.time()
    for after_s, known in ((SIGNED_IN_S - 60, True), (SIGNED_IN_S + 60, False), (-3600, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("itsdangerous.timed.time.time", lambda at=began + after_s: at)
            assert with_session(who, session).may_change is known, after_s


@pytest.mark.parametrize(
    "session",
    [
        *("", "x", "Ann", "a.b.c", "..", "." * 3000, "\udcff", "a.b.\udcff", "é.a.b", '"', "\\377"),
        signed({"name": "Ann", "nonce": "n"}, token=OTHER_TOKEN),
        signed({"name": "Ann", "nonce": "n"}, token=""),
        signed({"name": "Ann", "nonce": "n"}, salt="caspen-sync form"),
        # Signed by us, as an older or a newer version may have.
        *map(signed, ({"name": "Ann"}, {"nonce": "n"}, ["name", "nonce"], "name nonce", None, 1)),
    ],
    # By number: a signature holds the second in which it was made, and a test keeps its name.
    ids=itertools.count(),
)
def test_what_is_no_session(session: str) -> None:
    """Forged, signed with another token or for something else, or of another shape: nobody has signed in, and it is no
    fault of ours."""
    assert with_session(doorman(), session) == nobody()


def test_a_session_that_was_changed() -> None:
    """No character of it can be another one; but the last, some of whose bits mean nothing."""
    who = doorman()
    session = cookie(who).value
    for place in range(len(session) - 1):
        other = "A" if session[place] != "A" else "B"
        changed = f"{session[:place]}{other}{session[place + 1 :]}"
        assert with_session(who, changed) == nobody(), place


def test_a_session_of_another_port() -> None:
    """Another service of this host keeps its sessions under another name, and neither signs the other out."""
    who = doorman()
    session = cookie(who, "localhost:9465").value
    assert with_session(who, session, "localhost:9464", cookie_name="caspen_sync_9465") == nobody()
    assert with_session(who, session, "localhost:9465", cookie_name="caspen_sync_9465").may_change


def test_another_token_ends_every_session(tmp_path: Path) -> None:
    """The token's file changes: who signed in with the old one has to sign in again, and their forms are void. While
    the file cannot be read, the last one counts."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    settings = HttpSettings.model_validate({"token_file": file})
    who = Doorman(TokenSource("http", settings, at_least=16), hosts=(), loopback=True)
    session = cookie(who).value
    visitor = with_session(who, session)
    assert visitor.may_change
    file.unlink()
    assert with_session(who, session) == visitor
    assert who.is_token(TOKEN)
    file.write_text(f"{OTHER_TOKEN}\n")
    assert with_session(who, session) == nobody()
    assert (who.is_token(TOKEN), who.is_token(OTHER_TOKEN)) == (False, True)
    assert not who.is_form_of(with_session(who, cookie(who).value), visitor.form_word)


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN} "])
def test_by_the_token_itself(given: str) -> None:
    """A program sends it along; no browser does so by itself, so no form's word is asked of it."""
    visitor = doorman(loopback=False).visitor(request(Authorization=given))
    assert visitor == Visitor(name="api", by_token=True, looks=True, token_set=True)
    assert visitor.may_change


@pytest.mark.parametrize(
    "given",
    [
        *("Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}"),
        *(f"Bearer {TOKEN} {TOKEN}", "Bearer \udcff", "Bearer é"),
    ],
)
def test_not_by_what_is_not_the_token(given: str) -> None:
    """Whoever sends another word is told so, and not taken for somebody without one; also where there is no token. What
    is no text is no fault of ours."""
    for who in (doorman(), doorman(None)):
        visitor = who.visitor(request(Authorization=given))
        assert (visitor.wrong_token, visitor.looks, visitor.may_change) == (True, False, False)


@pytest.mark.parametrize("given", ["", TOKEN, f"Basic {TOKEN}", f"Bearer{TOKEN}"])
def test_another_kind_of_authorization(given: str) -> None:
    """It is none of ours: a proxy's, maybe."""
    assert doorman().visitor(request(Authorization=given)) == nobody()


def test_who_speaks_as_no_browser_does() -> None:
    """HTTP/1.0 is what a proxy speaks that says nothing else of itself: whoever comes by it is not on this host."""
    old = make_mocked_request("GET", "/", headers={"Host": HOST}, version=HttpVersion10)
    assert not doorman().visitor(old).looks


def test_the_token_of_a_form() -> None:
    """All of it, and nothing else."""
    who = doorman()
    assert who.is_token(TOKEN)
    assert not any(
        who.is_token(given) for given in ("", TOKEN[:-1], f"{TOKEN} ", TOKEN.upper(), "é", "\udcff", "\ud800")
    )


# -- words of forms ----------------------------------------------------------------------------------------------------


def test_a_form_has_the_word_of_its_session() -> None:
    """The same on each page of a session; that of another session, though it is the same person's, is not it."""
    who = doorman()
    session, another = cookie(who).value, cookie(who).value
    visitor, other = with_session(who, session), with_session(who, another)
    assert visitor.form_word == with_session(who, session).form_word != other.form_word
    assert who.is_form_of(visitor, visitor.form_word)
    for word in ("", "x", other.form_word, visitor.form_word[:-1], visitor.form_word.upper(), "é", "\udcff"):
        assert not who.is_form_of(visitor, word), word


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": f"Bearer {TOKEN}"}], ids=["nobody has signed in", "by the token"]
)
def test_who_has_no_session_has_no_word(headers: Mapping[str, str]) -> None:
    """An empty word is not theirs."""
    who = doorman()
    visitor = who.visitor(request(**headers))
    assert visitor.form_word == ""
    assert not who.is_form_of(visitor, "")
