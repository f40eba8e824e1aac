"""Who asks, and what they may do.

    who                                    looks   reads what changes say, sends again, discards, pauses
    anybody, on this host                  yes     no
    anybody, from elsewhere                no      no
    who has signed in, or sends the token  yes     yes

On this host is who asks at a loopback address, under a name or an address of it, and not by way of a proxy.

Against a page of somebody else's in the same browser:

- DNS rebinding: we are asked under an IP address, localhost, this host's name or one of `http.hosts`, or not at all. An
  attacker's page can only ask under its own name.
- Forged requests (CSRF): a form carries a word that only our own pages know, and the browser must say that the form is
  ours (Origin). Cookies of one host are shared by all its ports, so that SameSite alone does not keep out a neighbour.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import HttpVersion11, web
from itsdangerous import BadData, URLSafeTimedSerializer

from worker.addresses import is_loopback
from worker.errors import ConfigError
from worker.token import TokenSource

SIGNED_IN_S = 12 * 3600
LONGEST_NAME = 60
_MARKS_OF_PROXIES = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
# By hand, since what urllib makes of [::1].example differs from one Python to the next.
_PLACE = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^\[\]:@/?#\\\s]+))(?::[0-9]*)?")
_SESSION, _FORM = "caspen-sync session", "caspen-sync form"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks."""

    name: str | None
    """Of who has signed in; None: nobody has."""
    form_word: str = ""
    """What a form of theirs carries."""
    by_token: bool = False
    """Whether the token itself came along, as no browser would send it by itself."""
    looks: bool
    """Whether they may see how it is."""
    token_set: bool
    """Whether there is a token to sign in with."""
    wrong_token: bool = False
    """Whether a token came along, and is not the one."""

    @property
    def may_change(self) -> bool:
        """Whether they may read what changes say, and change something."""
        return self.name is not None


class Doorman:
    """Knows the token, and who has signed in with it: that stands in a signed cookie, and nowhere else. Another token
    ends every session."""

    def __init__(self, token: TokenSource | None, *, hosts: Collection[str], loopback: bool) -> None:
        """`hosts`: further names of ours. `loopback`: whether only this host can reach us."""
        self._token = token
        self._given = {host.lower() for host in hosts}
        self._hosts = {"localhost", socket.gethostname().lower(), *self._given}
        self._loopback = loopback

    def is_ours(self, request: web.BaseRequest) -> bool:
        """Whether we are asked under a name of ours."""
        return self._is_our_name(_name_in(request.headers.get("Host", "")))

    def is_from_us(self, request: web.BaseRequest) -> bool:
        """Whether a browser says that a page of ours sends this."""
        scheme, _, place = request.headers.get("Origin", "").lower().partition("://")
        name = _name_in(place)
        if scheme not in ("http", "https") or not name:
            return False
        # Behind a proxy the Host may be another one; its own name is in http.hosts then. This host's own names do not
        # count: they are those of its other services as well.
        return place == request.headers.get("Host", "").lower() or (name != "localhost" and name in self._given)

    def visitor(self, request: web.BaseRequest) -> Visitor:
        """Who asks this."""
        known = self._signer(_SESSION)
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            if self.is_token(given.strip()):
                return Visitor(name="api", by_token=True, looks=True, token_set=True)
            return Visitor(name=None, looks=False, token_set=known is not None, wrong_token=True)
        if known is None:
            return Visitor(name=None, looks=self._is_here(request), token_set=False)
        session = _read(known, request.cookies.get(_cookie_of(request), ""))
        if session is None:
            return Visitor(name=None, looks=self._is_here(request), token_set=True)
        return Visitor(name=str(session["name"]), form_word=self._form_word(session), looks=True, token_set=True)

    def is_form_of(self, visitor: Visitor, word: str) -> bool:
        """Whether a form with this word came from a page that we made for them."""
        return bool(visitor.form_word) and _same(visitor.form_word, word)

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        held = self._held()
        return held is not None and _same(held, given)

    def let_in(self, request: web.BaseRequest, response: web.StreamResponse, name: str) -> None:
        """From now on, this browser is signed in under this name. For who has shown the token."""
        signer = self._signer(_SESSION)
        if signer is not None:
            session = signer.dumps({"name": name[:LONGEST_NAME], "nonce": secrets.token_urlsafe(12)})
            secure = request.headers.get("Origin", "").startswith("https:")
            response.set_cookie(
                *(_cookie_of(request), session),
                max_age=SIGNED_IN_S,
                path="/",
                httponly=True,
                samesite="Lax",
                secure=secure,
            )

    @staticmethod
    def let_out(request: web.BaseRequest, response: web.StreamResponse) -> None:
        """From now on, this browser is signed in no more."""
        response.del_cookie(_cookie_of(request), path="/")

    def _is_here(self, request: web.BaseRequest) -> bool:
        """Whether somebody on this host asks. A proxy in between shows by the name, or by what proxies add."""
        name = _name_in(request.headers.get("Host", ""))
        marked = any(mark in request.headers for mark in _MARKS_OF_PROXIES)
        # No browser speaks HTTP/1.0 any more, and nginx does unless it is told otherwise.
        return self._loopback and is_loopback(name) and not marked and request.version >= HttpVersion11

    def _is_our_name(self, name: str) -> bool:
        return _is_ip(name) or name in self._hosts

    def _held(self) -> str | None:
        if self._token is None:
            return None
        with contextlib.suppress(ConfigError):  # it cannot be read now: the last one counts
            self._token.refresh()
        return self._token.token

    def _signer(self, purpose: str) -> URLSafeTimedSerializer | None:
        held = self._held()
        if held is None:
            return None
        return URLSafeTimedSerializer(
            held, salt=purpose, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
        )

    def _form_word(self, session: Mapping[str, Any]) -> str:
        held = self._held() or ""
        return hmac.new(held.encode(), f"{_FORM} {session['nonce']}".encode(), "sha256").hexdigest()


def _same(one: str, other: str) -> bool:
    """In a time that tells nothing; also where a header has bytes that are no text."""
    return hmac.compare_digest(one.encode(errors="surrogatepass"), other.encode(errors="surrogatepass"))


def _read(signer: URLSafeTimedSerializer, session: str) -> Mapping[str, Any] | None:
    try:
        read = signer.loads(session, max_age=SIGNED_IN_S)
    except (BadData, UnicodeError):
        return None
    return read if isinstance(read, dict) and {"name", "nonce"} <= read.keys() else None


def _cookie_of(request: web.BaseRequest) -> str:
    """Its name: two services of one host share their cookies, and would sign each other out."""
    _, _, port = request.headers.get("Host", "").rpartition(":")
    return f"caspen_sync_{port if port.isascii() and port.isdigit() else 80}"


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_in(place: str) -> str:
    """The host in HOST, HOST:PORT or [v6]:PORT, in lower case; empty where there is none, or something else besides."""
    found = _PLACE.fullmatch(place)
    if found is None:
        return ""
    if found["v6"] is not None and not _is_ip(found["v6"]):
        return ""
    return (found["v6"] or found["name"]).lower()
