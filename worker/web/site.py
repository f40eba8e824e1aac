"""The status page as a whole: which path is answered by what, and the few files that pages need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache

import asyncpg
from aiohttp import web

from worker.config import Settings
from worker.reading import SharedReading
from worker.status import Status
from worker.telemetry import Log
from worker.trail import Trail
from worker.web.access import Access
from worker.web.accounts import Accounts
from worker.web.appointments import Appointments
from worker.web.asked import HEADERS, Asked, guarded, guarded_form
from worker.web.changes import Changes
from worker.web.doorman import Doorman
from worker.web.figures import Looks
from worker.web.live import Live
from worker.web.overview import Overview
from worker.web.rendering import HERE
from worker.web.server import Page
from worker.web.signing import Signing

FILES = {"/page.css": "text/css", "/page.js": "text/javascript", "/icon.svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Site:
    """What is answered, by path."""

    pages: Mapping[str, Page]
    forms: Mapping[str, Page]
    close: Callable[[], Awaitable[None]]
    """Ends what is still being answered."""


def site(
    settings: Settings,
    doorman: Doorman,
    pool: asyncpg.Pool,
    *,
    counts: SharedReading[Status],
    trail: Trail,
    log: Log,
) -> Site:
    """The status page."""
    access = Access(pool)
    looks = Looks(pool, access, counts, trail, settings.accounts)
    overview, changes = Overview(looks), Changes(access, log)
    live = Live(looks, may_look=lambda request: doorman.visitor(request).looks)
    accounts, signing = Accounts(looks, access, settings, log), Signing(doorman, log)
    pages = {
        "/": overview.page,
        "/api/status": overview.json,
        "/accounts": overview.accounts,
        "/account": accounts.one,
        "/parked": changes.parked,
        "/change": changes.one,
        "/appointment": Appointments(looks, access).one,
    }
    forms = {
        "/retry": changes.retry,
        "/discard": changes.discard,
        "/pause": accounts.pause,
        "/resume": accounts.resume,
        "/sign-out": signing.sign_out,
    }
    return Site(
        pages={
            **{path: guarded(doorman, answer) for path, answer in pages.items()},
            "/live": guarded(doorman, live.stream, lasting=True),
            "/sign-in": guarded(doorman, signing.page, open_to_all=True),
            **{path: guarded(doorman, _file, open_to_all=True) for path in FILES},
        },
        forms={
            **{path: guarded_form(doorman, answer) for path, answer in forms.items()},
            "/sign-in": guarded_form(doorman, signing.sign_in, open_to_all=True),
        },
        close=live.close,
    )


async def _file(asked: Asked) -> web.Response:
    path = asked.request.path
    return web.Response(body=_read(path), content_type=FILES[path], charset="utf-8", headers=HEADERS)


@cache
def _read(path: str) -> bytes:
    return (HERE / "static" / path.removeprefix("/")).read_bytes()
