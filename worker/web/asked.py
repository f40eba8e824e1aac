"""What is asked and what is answered: the guard before every page, forms, and pages as HTML."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from aiohttp import web

from worker import __version__, privacy
from worker.errors import DATABASE_FAULTS, CaspenSyncError, UsageError
from worker.web.doorman import Doorman, Visitor
from worker.web.rendering import rendered
from worker.web.server import Page, plain

# Forms are ids and a reason; 1,000 ids are some 20 KB.
LARGEST_FORM = 64 * 1024
MOST_FIELDS = 2000
# Before the connection is cut (`server.CONNECTION_S`), with time to give back the database's (`access.CLEARED_IN_S`):
# whoever asked is told.
LONGEST_ANSWER_S = 10.0

# Nothing but our own two files runs or shapes a page, nobody frames it, and no form of it goes elsewhere.
# https://www.w3.org/TR/CSP3/
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers would hide the Origin of our own forms, too
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}

Answer = Callable[["Asked"], Awaitable[web.StreamResponse]]


class NotDone(Exception):
    """The request cannot be done as it stands; the message is for the person who sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that may be answered, and who sent it."""

    request: web.BaseRequest
    visitor: Visitor
    form: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Of a POST."""

    def given(self, name: str) -> str | None:
        """One value of the query; None: it is not there, or empty."""
        return _storable(self.request.query.get(name, "")) or None

    def number(self, name: str) -> int | None:
        """One value of the query as a whole number. Raises NotDone when it is none."""
        text = self.given(name)
        return None if text is None else _whole(text)

    def sent(self, name: str) -> str:
        """One value of the form; empty: it is not there."""
        return _storable(dict(self.form).get(name, ""))

    def sent_numbers(self, name: str) -> list[int]:
        """All values of this name in the form, as whole numbers, and those that its plural lists
        with commas. Raises NotDone when one is none."""
        listed = self.sent(f"{name}s").split(",")
        return [_whole(value) for key, value in self.form if key == name] + [_whole(one) for one in listed if one]


def guarded(doorman: Doorman, answer: Answer, *, open_to_all: bool = False, lasting: bool = False) -> Page:
    """The page, for those who may see it. `open_to_all`: what has no figures. `lasting`: what goes on for as long as
    somebody looks."""

    async def page(request: web.BaseRequest) -> web.StreamResponse:
        if not doorman.is_ours(request):
            return plain(421, "asked under a name that is not this page's; add it to http.hosts if it is")
        visitor = doorman.visitor(request)
        if visitor.wrong_token:
            return plain(401, "that is not the token", **{"WWW-Authenticate": 'Bearer error="invalid_token"'})
        asked = Asked(request=request, visitor=visitor)
        try:
            if not (open_to_all or visitor.looks):
                return _to_sign_in(request)
            async with asyncio.timeout(None if lasting else LONGEST_ANSWER_S):
                return await answer(asked)
        except NotDone as error:
            return message(asked, error.status, str(error))
        except TimeoutError:
            perhaps = "It may have been done all the same. " if request.method == "POST" else ""
            return message(asked, 503, f"This takes too long. {perhaps}Look again in a moment.")
        except UsageError as error:
            return message(asked, 409, _said(error))
        except DATABASE_FAULTS as error:
            return message(asked, 503, f"The database cannot do this now. {_said(error)}")

    return page


def guarded_form(doorman: Doorman, answer: Answer, *, open_to_all: bool = False) -> Page:
    """What changes something: for who is signed in, by a form of ours. `open_to_all`: for others as well, but by such a
    form all the same."""

    async def page(asked: Asked) -> web.StreamResponse:
        form = await _form_of(asked.request)
        full = Asked(request=asked.request, visitor=asked.visitor, form=form)
        if not asked.visitor.by_token:
            if not doorman.is_from_us(asked.request):
                raise NotDone(
                    403,
                    "This was not sent by a page of this service. Nothing was changed. "
                    "If it was, by way of a proxy, the proxy's name has to be in http.hosts.",
                )
            if not open_to_all:
                if not asked.visitor.may_change:
                    raise NotDone(403, "You are not signed in, or not any more. Nothing was changed.")
                if not doorman.is_form_of(asked.visitor, full.sent("word")):
                    raise NotDone(403, "This page is from before you signed in. Nothing was changed; open it again.")
        return await answer(full)

    return guarded(doorman, page, open_to_all=open_to_all)


def html(asked: Asked, status: int, template: str, *, here: str = "", **values: Any) -> web.Response:
    """A page. `here`: which of those in the navigation it is."""
    text = rendered(template, here=here, **_of_every_page(asked), **values)
    return web.Response(status=status, text=text, content_type="text/html", headers=HEADERS)


def message(asked: Asked, status: int, text: str) -> web.Response:
    """A page with nothing but a sentence."""
    return html(asked, status, "message.html", head=HTTPStatus(status).phrase, text=text)


def gone_to(path: str) -> web.Response:
    """The browser goes there by GET."""
    return web.Response(status=303, headers={"Location": path, **HEADERS})


def local_path(text: str) -> str:
    """A path of ours to go on to, whatever was given; never another host's."""
    try:
        parts = urlsplit(text if text.isascii() and text.isprintable() else "")
    except ValueError:  # such as //[
        return "/"
    ours = not parts.scheme and not parts.netloc and parts.path.startswith("/") and "\\" not in text
    return text if ours and not text.startswith("//") else "/"


def _of_every_page(asked: Asked) -> Mapping[str, Any]:
    return {
        "visitor": asked.visitor,
        "version": __version__,
        "zone": time.strftime("%Z"),
        "at_path": asked.request.path_qs if asked.request.method == "GET" else "/",
    }


def _to_sign_in(request: web.BaseRequest) -> web.Response:
    if "text/html" in request.headers.get("Accept", "") and request.method in ("GET", "HEAD"):
        return gone_to(f"/sign-in?next={quote(request.path_qs, safe='')}")
    return plain(401, "sign in, or send the token: Authorization: Bearer …", **{"WWW-Authenticate": "Bearer"})


async def _form_of(request: web.BaseRequest) -> tuple[tuple[str, str], ...]:
    if request.content_type != "application/x-www-form-urlencoded":
        raise NotDone(415, "Only forms are taken here. Nothing was changed.")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise NotDone(415, "Packed forms are not taken here. Nothing was changed.")
    if request.content_length is None:
        raise NotDone(411, "The form does not say how long it is. Nothing was changed.")
    if request.content_length > LARGEST_FORM:
        raise NotDone(413, "That is more than a form of ours holds. Nothing was changed.")
    try:
        text = (await request.read()).decode()
        return tuple(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS))
    except ValueError:
        raise NotDone(400, "That is no form of ours. Nothing was changed.") from None


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise NotDone(400, "That is no number of a change.")
    return int(text)


def _storable(text: str) -> str:
    """Without what Postgres cannot hold. Blanks at an end stay: names may have them."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _said(error: CaspenSyncError) -> str:
    return privacy.printable(privacy.redacted(str(error)))
