"""A service with a web address, and what it says there."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from tests.support import canary
from tests.support.outages import Watched, watched
from tests.support.waiting import eventually
from worker.telemetry import log
from worker.web import server

ANY_PORT = {"HTTP__LISTEN": "127.0.0.1:0"}


@dataclass(frozen=True, slots=True)
class Page:
    """What was answered."""

    status: int
    text: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Metrics:
    """A scrape, or a textfile."""

    text: str

    def families(self) -> dict[str, str]:
        """The type of each family, by the name it has in the text."""
        lines = [line.split() for line in self.text.splitlines() if line.startswith("# TYPE ")]
        return {name: kind for _, _, name, kind in lines}

    def values(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """The samples of this name that have these labels, by the values of their other labels."""
        found = {}
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    rest = tuple(value for key, value in sample.labels.items() if key not in labels)
                    assert rest not in found, f"{name} stands there twice"
                    found[rest] = sample.value
        return found

    def value(self, name: str, **labels: str) -> float:
        """The one sample of this name with these labels."""
        (value,) = self.values(name, **labels).values()
        return value


async def get(url: str, *, method: str = "GET", limit_s: float = 10, **headers: str) -> Page:
    """One request, on a connection of its own."""
    timeout = aiohttp.ClientTimeout(total=limit_s)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(method, url, headers=headers) as answer,
    ):
        text = await answer.text()
        canary.watch(text, where=url)
        return Page(answer.status, text, dict(answer.headers))


@dataclass(frozen=True, slots=True)
class Web:
    """Where a service answers."""

    service: Watched
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    async def get(self, path: str, **options: str) -> Page:
        return await get(f"http://{self.address}{path}", **options)  # type: ignore[arg-type]

    async def scrape(self) -> Metrics:
        page = await self.get("/metrics")
        assert page.status == 200
        return Metrics(page.text)

    async def turns(self, path: str, status: int, words: str, *, limit_s: float = 20) -> Page:
        """Waits until the page has this status and holds these words."""

        async def turned() -> Page | None:
            page = await self.get(path)
            return page if page.status == status and words in page.text else None

        page: Page = await eventually(turned, limit_s=limit_s, what=f"{path} is {status} and says {words!r}")
        return page


async def address_of(service: Watched) -> str:
    """Where it says that it listens."""
    (said,) = await eventually(lambda: service.events("http_listening"), what="http_listening")
    address: str = said["address"]
    return address


@contextlib.asynccontextmanager
async def web(env: Mapping[str, str], *args: str) -> AsyncIterator[Web]:
    """A service that listens on a port of its own, unless `env` or `args` say otherwise."""
    ours = {f"CASPEN_SYNC_{name}": value for name, value in ANY_PORT.items()}
    async with watched({**env, **({} if env.get("CASPEN_SYNC_HTTP__LISTEN") else ours)}, *args) as service:
        yield Web(service, await address_of(service))


@contextlib.asynccontextmanager
async def listening_here(pages: Mapping[str, server.Page]) -> AsyncIterator[int]:
    """A server in this process; gives its port."""
    with capture_logs() as logs:
        async with server.listening("127.0.0.1", 0, pages, log=log()):
            yield int(logs[0]["address"].rpartition(":")[2])


async def said_to(port: int, request: bytes, *, limit_s: float = 10) -> bytes:
    """Everything that is answered to these bytes, until the other side closes the connection."""
    async with held(port, request) as reader, asyncio.timeout(limit_s):
        with contextlib.suppress(ConnectionResetError):
            return await reader.read()
    return b""


@contextlib.asynccontextmanager
async def held(port: int, request: bytes = b"") -> AsyncIterator[asyncio.StreamReader]:
    """A connection on which these bytes were sent and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def assert_clean(text: str) -> None:
    """Prometheus's own linter has nothing to say."""
    assert shutil.which("promtool"), "promtool is missing: apt-get install prometheus"
    checked = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
