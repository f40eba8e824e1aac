"""The live part of the overview: server-sent events, for as long as anybody looks.

All viewers share one look and one drawing, and each is sent the sections that have changed. While nobody looks there is
no task, and nothing is read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from worker import clock
from worker.web.asked import HEADERS, Asked
from worker.web.figures import GLANCE_S, Figures, Looks
from worker.web.overview import sections_of, title_of
from worker.web.server import HEADERS as SERVER_HEADERS
from worker.web.server import plain, spared

# Ages and countdowns are drawn once a second; a new verdict at once.
DRAWN_EVERY_S = 1.0
MOST_VIEWERS = 32
# A browser comes back by itself; that ends what a proxy, or a browser that is gone, would hold open.
LONGEST_S = 600.0
# So often something is said in any case: a connection that died without a word is known by its silence, see page.js.
BEAT_S = 4.0
# Whoever does not read for so long is cut.
SLOW_S = 5.0

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",  # nginx would send it in lumps
}


@dataclass(frozen=True, slots=True)
class _Drawn:
    html: str
    number: int
    """Of the drawing in which it changed last."""


class Live:
    """Draws for the viewers, and tells them."""

    def __init__(self, looks: Looks, *, may_look: Callable[[web.BaseRequest], bool]) -> None:
        """`may_look`: whether whoever sent this request still may; asked before each event, so that another token ends
        streams as well."""
        self._looks = looks
        self._may_look = may_look
        self._sections: dict[str, _Drawn] = {}
        self._drawn: Figures | None = None
        self._title = ""
        self._number = 0
        self._news = asyncio.Event()
        self._viewers = 0
        self._drawing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def viewers(self) -> int:
        """How many look."""
        return self._viewers

    @property
    def draws(self) -> bool:
        """Whether anything is looked at for them."""
        return self._drawing is not None

    async def stream(self, asked: Asked) -> web.StreamResponse:
        """Events, each the sections that have changed, until the viewer goes or we end."""
        if asked.request.method == "HEAD":
            return web.Response(content_type="text/event-stream", headers=HEADERS)
        if self._closed or self._viewers >= MOST_VIEWERS:
            return plain(503, "too many look at once")
        response = web.StreamResponse(headers={**SERVER_HEADERS, **HEADERS, **STREAM_HEADERS})
        response.force_close()
        self._viewers += 1
        try:
            with spared(asked.request):
                await response.prepare(asked.request)
                await self._tell(asked.request, response.write)
        except (ConnectionError, TimeoutError):
            if asked.request.transport is not None:
                asked.request.transport.abort()
        finally:
            self._viewers -= 1
        return response

    async def close(self) -> None:
        """Ends every stream."""
        self._closed = True
        self._tell_all()
        if self._drawing is not None:
            self._drawing.cancel()
            await asyncio.gather(self._drawing, return_exceptions=True)

    async def _tell(self, request: web.BaseRequest, write: Callable[[bytes], Awaitable[None]]) -> None:
        seen, said_at = 0, clock.now()
        await write(b"retry: 1000\n\n")
        async for number in self._drawings():
            if request.transport is None or request.transport.is_closing():
                return
            sections = self._since(seen)
            if sections or clock.now() - said_at >= BEAT_S:
                if not self._may_look(request):
                    return
                async with asyncio.timeout(SLOW_S):
                    await write(self._event(sections))
                said_at = clock.now()
            seen = number

    async def _drawings(self) -> AsyncIterator[int]:
        """The number of each drawing that there is, from the one that stands, until this stream has had its time."""
        ends_at = clock.now() + LONGEST_S
        if self._drawing is None or self._drawing.done():
            self._drawing = asyncio.create_task(self._draw())
        elif self._sections:
            yield self._number
        drawing = self._drawing
        while not self._closed and clock.now() < ends_at:
            await self._news.wait()
            if drawing.done():
                drawing.result()  # a fault of ours is told by whoever handles the request
                return
            yield self._number

    def _since(self, seen: int) -> Mapping[str, str]:
        return {name: drawn.html for name, drawn in self._sections.items() if drawn.number > seen}

    def _event(self, sections: Mapping[str, str]) -> bytes:
        return f"data: {json.dumps({'title': self._title, 'sections': sections})}\n\n".encode()

    async def _draw(self) -> None:
        """While anybody looks: looks often, and draws when there is something to see."""
        drawn_at, shown = 0.0, None
        try:
            while self._viewers and not self._closed:
                figures = await self._looks.now()
                if clock.now() - drawn_at >= DRAWN_EVERY_S or _essence(figures) != shown:
                    drawn_at, shown = clock.now(), _essence(figures)
                    self._take(figures)
                self._tell_all()
                await asyncio.sleep(GLANCE_S)
        finally:
            self._drawing = None
            self._sections.clear()  # whoever comes after an hour is not sent that hour's
            self._drawn = None
            self._tell_all()

    def _take(self, figures: Figures) -> None:
        self._number += 1
        self._title = title_of(figures)
        sections, self._drawn = sections_of(figures, self._drawn), figures
        for name, html in sections.items():
            if name not in self._sections or self._sections[name].html != html:
                self._sections[name] = _Drawn(html, self._number)

    def _tell_all(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _essence(figures: Figures) -> object:
    """What is told at once when it changes."""
    paused = [(one.account, one.pause_kind, one.pending) for one in figures.status.accounts] if figures.status else None
    return figures.verdict.level, paused
