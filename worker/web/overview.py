"""The overview: `/`, the same as JSON, and the list of all accounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from worker.jsontext import json_text
from worker.status import AccountStatus
from worker.web.asked import HEADERS, Asked, html
from worker.web.charts import line
from worker.web.figures import Figures, Looks
from worker.web.rendering import rendered

# Each is a template of its own, and what is sent anew when it changes.
SECTIONS = ("verdict", "figures", "graphs", "parked", "requests", "accounts", "workers")
# Of more accounts the overview would be none; there is a page of all.
ACCOUNTS_SHOWN = 25
# What costs most to draw changes least often.
_MADE_OF: Mapping[str, Callable[[Figures], object]] = {
    "parked": lambda figures: figures.lately and figures.lately.reasons,
    "requests": lambda figures: figures.lately and figures.lately.minutes,
}
_MARKS = {"well": "✓", "busy": "…", "person": "!", "stopped": "✕", "unknown": "?"}


class Overview:
    """Draws it."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks

    async def page(self, asked: Asked) -> web.Response:
        """The page."""
        values = view(await self._looks.now())
        return html(asked, 200, "overview.html", here="overview", sections=SECTIONS, **values)

    async def accounts(self, asked: Asked) -> web.Response:
        """All accounts."""
        figures = await self._looks.now()
        accounts = figures.status.accounts if figures.status else ()
        strangers = figures.status.unregistered if figures.status else ()
        return html(asked, 200, "accounts.html", here="accounts", accounts=_ordered(accounts), strangers=strangers)

    async def json(self, _: Asked) -> web.Response:
        """Every figure of the page."""
        figures = await self._looks.now()
        return web.Response(text=f"{json_text(figures)}\n", content_type="application/json", headers=HEADERS)


def sections_of(figures: Figures, drawn: Figures | None = None) -> Mapping[str, str]:
    """The HTML of each section, by its id; without those that were made of the same figures in `drawn`."""
    same = (
        set() if drawn is None else {name for name, made_of in _MADE_OF.items() if made_of(figures) is made_of(drawn)}
    )
    values = view(figures)
    return {name: rendered(f"section_{name}.html", **values) for name in SECTIONS if name not in same}


def title_of(figures: Figures) -> str:
    """What the browser's tab says."""
    return f"{_MARKS[figures.verdict.level]} {figures.verdict.headline}"


def view(figures: Figures) -> Mapping[str, Any]:
    """What the sections are made of."""
    accounts = _ordered(figures.status.accounts if figures.status else ())
    strangers = figures.status.unregistered if figures.status else ()
    shown, strange = accounts[:ACCOUNTS_SHOWN], strangers[:ACCOUNTS_SHOWN]
    return {
        "title": title_of(figures),
        "figures": figures,
        "accounts": shown,
        "strangers": strange,
        "more": len(accounts) + len(strangers) - len(shown) - len(strange),
        "waiting": line(figures.trail, lambda point: point.pending),
        "ages": line(figures.trail, lambda point: point.oldest_s),
    }


def _ordered(accounts: tuple[AccountStatus, ...]) -> list[AccountStatus]:
    """Those that need somebody first, then those with the most to send."""
    return sorted(accounts, key=lambda one: (not _needs_somebody(one), -one.pending, -one.parked, one.account))


def _needs_somebody(one: AccountStatus) -> bool:
    return one.pause_kind not in (None, "throttled") or bool(one.pending and not one.served)
