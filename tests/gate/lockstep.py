"""Worker processes in step. Whatever a worker waits for, it gets one thing at a time, and only once it has done all
that it can do without: first what Postgres answers, and when nothing is asked of that, what the API answers, all at
once. So what a batch holds does not depend on who was faster, nor does what it costs.

A worker's own clock stands still, and moves on by a second whenever the API answers: what it reckons by how long things
took, it reckons the same on any machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import termios
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from tests.gate.wire import Wire
from tests.gate.worker import CLOCK_RUNS
from tests.support.processes import Watched, environment, start
from tests.support.rawserver import RawServer, Request, answer, raw_server
from worker.sandbox.resource import fresh_resource

# It sleeps for so long when it has nothing to do: longer than anything that it waits for in the middle of its work.
# How busy the machine is does not matter: while it may run, it does not sleep, whether it gets a CPU or not.
QUIET_S = 0.03
LOOK_S = 0.002
# So often it is looked, each time after our own side has read what has come.
LOOKS = 2
QUIET_LOOKS = 8

_NOON = 1_704_110_400.0


class HeldApi:
    """An API that accepts everything, and answers when it is told to."""

    def __init__(self, server: RawServer) -> None:
        self._server = server
        self._held: list[tuple[Request, asyncio.StreamWriter]] = []
        self.received = 0

    @property
    def base_url(self) -> str:
        return self._server.base_url

    @property
    def held(self) -> int:
        """How many requests wait for their answers."""
        return len(self._held)

    def hold(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.received += 1
        self._held.append((request, writer))

    def answer(self, most: int | None = None) -> None:
        """Answers those that have waited longest: each of the same length, so that each costs the same to store.
        Returns once all has arrived."""
        most = len(self._held) if most is None else most
        answered, self._held = self._held[:most], self._held[most:]
        for request, writer in answered:
            resource = fresh_resource(request.path.rsplit("/", 1)[1], _NOON) | json.loads(request.body)
            writer.write(answer("200 OK", json.dumps(resource).encode(), "Content-Type: application/json"))
            assert not writer.transport.get_write_buffer_size()
        while any(_on_the_way(writer) for _, writer in answered):
            time.sleep(0.0005)


def _on_the_way(writer: asyncio.StreamWriter) -> bool:
    unacknowledged = fcntl.ioctl(writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return any(unacknowledged)


@contextlib.asynccontextmanager
async def held_api() -> AsyncIterator[HeldApi]:
    api: HeldApi

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        api.hold(request, writer)

    async with raw_server(respond) as server:
        api = HeldApi(server)
        yield api


class Stepped:
    """A worker process whose steps are waited for."""

    def __init__(self, process: Watched, wire: Wire, api: HeldApi) -> None:
        self._process = process
        self._wire = wire
        self._api = api
        self._slept = -1
        self.ended = asyncio.create_task(process.communicate())

    async def quiet(self) -> bool:
        """Has Postgres answer until nothing is asked, and the worker sleeps. False: it has ended."""
        while await self._sleeps(LOOKS, 0):
            if tell := await self._wire.next_answer():
                self._slept = self._naps()  # what it is told wakes it
                tell()
            elif not await self._sleeps(QUIET_LOOKS, QUIET_S):
                return False
            elif not self._wire.asked and not self._wire.to_notify:
                return True
        return False

    def answer(self, most: int | None = None) -> None:
        """Has the API answer. The worker stands still meanwhile: it finds all answers together."""
        with self._frozen():
            self._api.answer(most)

    async def work_off(self, requests: int, *, at_once: int | None = None) -> None:
        """Answers until it has made so many more requests, and is quiet. `at_once`: how many are answered together."""
        ends_at = self._api.received - self._api.held + requests
        while await self.quiet():
            if self._api.held:
                self.answer(at_once)
            elif self._api.received >= ends_at:
                return
            else:
                self.answer()  # none, but its clock moves on

    @contextlib.asynccontextmanager
    async def hearing(self) -> AsyncIterator[None]:
        """Waits until it has been notified of what is committed in this block."""
        heard = self._wire.notifications
        yield
        while self._wire.notifications == heard:
            assert await self.quiet()

    async def end(self) -> None:
        """Waits until it has ended by itself, well."""
        while await self.quiet():
            self.answer()
        _, said = await self.ended
        assert self._process.returncode == 0, said.decode()[-3000:]

    async def _sleeps(self, looks: int, seconds: float) -> bool:
        """Waits until it has slept for so long, and nothing has come from it. False: it has ended."""
        seen: tuple[int, ...] | None = None
        looked, since = 0, time.monotonic()
        while not self.ended.done():
            naps = self._naps()
            now = None if naps <= self._slept else (naps, self._api.received, self._wire.seen)
            if now is None or now != seen:
                seen, looked, since = now, 0, time.monotonic()
            elif (looked := looked + 1) >= looks and time.monotonic() - since >= seconds:
                return True
            await asyncio.sleep(LOOK_S)
        return False

    def _naps(self) -> int:
        """How often it has gone to sleep so far; -1 while any of it runs, or may."""
        naps = 0
        for status in self._threads():
            if "\nState:\tS" not in status:
                return -1
            naps += int(status.partition("\nvoluntary_ctxt_switches:")[2].split(None, 1)[0])
        return naps or -1

    def _threads(self) -> list[str]:
        """What the system says of each of its threads; nothing once it has ended."""
        try:
            return [
                (t / "status").read_text("ascii", "replace") for t in Path(f"/proc/{self._process.pid}/task").iterdir()
            ]
        except OSError:
            return []

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        with contextlib.suppress(ProcessLookupError):  # it may just have ended
            os.kill(self._process.pid, signal.SIGSTOP)
            while any("\nState:\tT" not in status for status in self._threads()):
                time.sleep(0.0005)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def stepped(
    *args: str, dsn: str, wire: Wire, api: HeldApi, settings: Mapping[str, str], clock_runs: bool = False
) -> AsyncIterator[Stepped]:
    """`caspen-sync run ARGS`, killed at the end unless it has ended by itself."""
    env = environment(dsn, api.base_url, settings) | ({CLOCK_RUNS: "yes"} if clock_runs else {})
    process = await start("run", *args, env=env, module="tests.gate.worker")
    worker = Stepped(process, wire, api)
    try:
        yield worker
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await worker.ended


@contextlib.asynccontextmanager
async def stepped_service(
    *, dsn: str, wire: Wire, api: HeldApi, settings: Mapping[str, str], clock_runs: bool = False
) -> AsyncIterator[Stepped]:
    """The service, once it listens and is quiet."""
    async with stepped(dsn=dsn, wire=wire, api=api, settings=settings, clock_runs=clock_runs) as worker:
        while not any(name.startswith("LISTEN") for name in wire.traffic.statements):
            assert await worker.quiet(), worker.ended.result()
        assert await worker.quiet(), worker.ended.result()
        yield worker
