"""A clinic whose service has a status page, and asking for its pages without a browser."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import aiohttp

from tests.support import canary
from tests.support.database import Database
from tests.support.outages import Clinic, clinic
from tests.support.web import Page, Web, web

PAGE_TOKEN = "page-token-6f1c2a90"
WITH_TOKEN = {"HTTP__TOKEN": PAGE_TOKEN}


@dataclass(frozen=True, slots=True)
class Surgery:
    """The clinic, its service and the page."""

    clinic: Clinic
    web: Web

    @property
    def address(self) -> str:
        return self.web.address

    @property
    def origin(self) -> str:
        return f"http://{self.address}"


@contextlib.asynccontextmanager
async def surgery(database: Database, *args: str, latency_s: float = 0.0, **settings: str) -> AsyncIterator[Surgery]:
    """Its service stops as asked in the end."""
    async with clinic(database, latency_s=latency_s, **settings) as one, web(one.env, *args) as service:
        yield Surgery(one, service)
        await one.stopped(service.service)
        assert not service.service.events("http_failed")


@dataclass(slots=True)
class Visitor:
    """Somebody with a browser's cookies, who can also ask as no browser would."""

    address: str
    cookies: dict[str, str] = field(default_factory=dict)
    word: str = ""
    """What a form of theirs has to carry."""

    async def get(self, path: str, **headers: str) -> Page:
        """One page. What it says is watched for values of bodies unless they have signed in."""
        return await self._ask("GET", path, None, headers)

    async def post(self, path: str, form: Mapping[str, str] | list[tuple[str, str]], **headers: str) -> Page:
        """A form, as a page of ours would send it, unless `headers` say otherwise; an empty one is left out."""
        return await self._ask("POST", path, form, {"Origin": f"http://{self.address}", **headers})

    async def sign_in(self, token: str = PAGE_TOKEN, name: str = "Ann") -> Page:
        page = await self.post("/sign-in", {"token": token, "name": name, "next": "/"})
        if page.status == 303:
            overview = await self.get("/")
            found = re.search(r'name="word" value="([0-9a-f]+)"', overview.text)
            assert found
            self.word = found[1]
        return page

    async def _ask(
        self, method: str, path: str, form: Mapping[str, str] | list[tuple[str, str]] | None, headers: Mapping[str, str]
    ) -> Page:
        sent = {name: value for name, value in headers.items() if value}
        if self.cookies and "Cookie" not in sent:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(
                *(method, f"http://{self.address}{path}"), data=form, headers=sent, allow_redirects=False
            ) as answer,
        ):
            text = await answer.text()
            for name, morsel in answer.cookies.items():
                self.cookies.pop(name, None)
                if morsel.value:
                    self.cookies[name] = morsel.value
            if not self.cookies and "Authorization" not in sent:
                canary.watch(text, where=path)
            return Page(answer.status, text, dict(answer.headers))
