"""The live part of the page: looked and drawn for all viewers at once, and for nobody when nobody looks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import pytest
from structlog.testing import capture_logs

from tests.support.waiting import eventually
from tests.support.web import held, listening_here, said_to
from worker.web import live, server
from worker.web.doorman import Doorman
from worker.web.figures import Figures, Looks
from worker.web.live import Live
from worker.web.site import guarded
from worker.web.verdict import Verdict

ASK = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Counted:
    """Looks that are counted, and see what they are told to."""

    headline: str = "first"
    looks: int = 0
    fault: Exception | None = None
    may_look: bool = True
    goes_on: asyncio.Event | None = None
    """What a look waits for."""

    async def now(self) -> Figures:
        self.looks += 1
        if self.goes_on is not None:
            await self.goes_on.wait()
        if self.fault is not None:
            raise self.fault
        verdict = Verdict(level="busy", headline=self.headline, details="")
        return Figures(at=datetime.now(UTC), version="1", verdict=verdict, status=None, lately=None, trail=())


@contextlib.asynccontextmanager
async def streaming(looks: Counted) -> AsyncIterator[tuple[int, Live]]:
    """A server with nothing but the stream; gives its port."""
    doorman = Doorman(None, hosts=(), loopback=True)
    stream = Live(cast(Looks, looks), may_look=lambda _: looks.may_look)
    async with listening_here({"/live": guarded(doorman, stream.stream)}) as port:
        try:
            yield port, stream
        finally:
            await stream.close()


async def event(reader: asyncio.StreamReader) -> str:
    """The next one."""
    async with asyncio.timeout(20):
        await reader.readuntil(b"data: ")
        return (await reader.readuntil(b"\n\n")).decode()


async def test_nobody_looks() -> None:
    """Then nothing is looked at: not before the first viewer, and not after the last one has gone."""
    looks = Counted()
    async with streaming(looks) as (port, stream):
        assert looks.looks == 0
        async with held(port, ASK) as reader:
            assert "first" in await event(reader)
            assert looks.looks >= 1
        await eventually(lambda: stream.viewers == 0 and not stream.draws, what="the last viewer has gone")
        looked = looks.looks
        async with held(port, ASK) as reader:
            await event(reader)
        assert looks.looks <= looked + 2


async def test_nobody_is_told_how_it_was_for_others() -> None:
    """Who comes while the first look after a pause goes on waits for it, and is not sent what was drawn long ago."""
    looks = Counted()
    async with streaming(looks) as (port, stream):
        async with held(port, ASK) as reader:
            assert "first" in await event(reader)
        await eventually(lambda: stream.viewers == 0 and not stream.draws, what="the last viewer has gone")
        looks.headline, looks.goes_on = "second", asyncio.Event()
        async with held(port, ASK) as one, held(port, ASK) as other:
            await eventually(lambda: stream.viewers == 2, what="both look")
            looks.goes_on.set()
            for reader in (one, other):
                assert "first" not in await event(reader)


async def test_many_share_each_look_and_get_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten viewers cost the looks of one; each hears of what has changed, and of nothing else; who comes later gets all
    of it at once."""
    monkeypatch.setattr(live, "BEAT_S", 60.0)
    looks = Counted()
    async with streaming(looks) as (port, _), contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(held(port, ASK)) for _ in range(10)]
        for reader in readers:
            first = await event(reader)
            assert all(f'"{section}"' in first for section in ("verdict", "graphs", "workers"))
        before = looks.looks
        looks.headline = "second"
        for reader in readers:
            second = await event(reader)
            assert "second" in second
            assert '"workers"' not in second
        assert looks.looks <= before + 6
        late = await stack.enter_async_context(held(port, ASK))
        assert '"workers"' in await event(late)


async def test_a_fault_of_ours_is_told_once_and_the_stream_ends() -> None:
    """The log has it, without its message; the viewer's browser comes back by itself."""
    looks = Counted(fault=ValueError("Mrs Canary coughs"))
    async with streaming(looks) as (port, stream):
        with capture_logs() as logs:
            answer = await said_to(port, ASK)
        assert b"data:" not in answer
        assert {entry["event"] for entry in logs} == {"http_failed"}
        assert "Canary" not in str(logs)
        looks.fault = None
        async with held(port, ASK) as reader:
            assert "first" in await event(reader)
        await eventually(lambda: stream.viewers == 0, what="both have gone")


async def test_whoever_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """One who takes nothing in holds up nobody, and is gone after a while."""
    monkeypatch.setattr(live, "SLOW_S", 2.0)  # the quick one shares this process, and both cores with other tests
    monkeypatch.setattr(live, "DRAWN_EVERY_S", 0.0)
    monkeypatch.setattr(live, "GLANCE_S", 0.05)
    looks = Counted()
    async with streaming(looks) as (port, stream), held(port, ASK) as slow, held(port, ASK) as quick:
        await event(slow)
        await event(quick)
        assert stream.viewers == 2
        reading = asyncio.create_task(everything(quick))

        async def cut() -> bool:
            looks.headline = f"{looks.looks} {'W' * 500_000}"
            assert not reading.done(), "the one who reads was cut"
            return stream.viewers == 1

        await eventually(cut, what="the one who does not read is cut")
        reading.cancel()


async def everything(reader: asyncio.StreamReader) -> None:
    """Takes in whatever comes."""
    while await reader.read(2**20):
        pass


async def test_a_stream_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that none is held open for ever by who is gone; a browser comes back by itself."""
    monkeypatch.setattr(live, "LONGEST_S", 0.5)
    async with streaming(Counted()) as (port, stream):
        assert b"first" in await said_to(port, ASK, limit_s=10)
        assert stream.viewers == 0


async def test_a_stream_ends_for_who_may_look_no_more() -> None:
    """Nothing is sent after that, whatever changes."""
    looks = Counted()
    async with streaming(looks) as (port, stream), held(port, ASK) as reader:
        await event(reader)
        looks.may_look = False
        looks.headline = "second"
        async with asyncio.timeout(20):
            assert b"second" not in await reader.read()
        assert stream.viewers == 0


async def test_a_stream_outlasts_other_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those are cut after a while, whatever they do; a stream goes on, and what changes still comes."""
    monkeypatch.setattr(server, "CONNECTION_S", 1.0)
    looks = Counted()
    async with streaming(looks) as (port, _), held(port, ASK) as reader:
        await event(reader)
        began = time.monotonic()
        while time.monotonic() < began + 2.5:
            looks.headline = f"at {time.monotonic()}"
            assert looks.headline in await event(reader)


async def test_something_is_said_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing changes: a browser takes silence for a connection that died. No section is sent anew."""
    monkeypatch.setattr(live, "BEAT_S", 0.1)
    async with streaming(Counted()) as (port, _), held(port, ASK) as reader:
        await event(reader)
        for _ in range(3):
            assert '"sections": {}' in await event(reader)
