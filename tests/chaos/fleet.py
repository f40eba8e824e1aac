"""Several worker processes on one key, of which any may end at any moment: the next one takes its place."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.clocks import FILE, set_clocks
from tests.chaos.hosts import Host
from tests.support.processes import Ended, Watched, start

_AWAY_S = 0.3
# Ended by a signal, the second one before it listens for that; the database was away when it began, or for longer than
# it waits; the token was refused.
_EXPECTED = {-signal.SIGKILL, -signal.SIGTERM, 0, 65, 69, 75, 77}


@dataclass(slots=True, eq=False)
class Worker:
    """One process, and its clocks."""

    process: Watched
    clocks: Path
    ends: asyncio.Task[tuple[bytes, bytes]]
    wall_s: float = 0.0
    slept_s: float = 0.0

    def shift(self, *, wall_s: float, slept_s: float) -> None:
        """Moves its clocks, from where they are."""
        self.wall_s += wall_s
        self.slept_s += slept_s
        set_clocks(self.clocks, wall_s=self.wall_s, slept_s=self.slept_s)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


@dataclass(frozen=True, slots=True)
class Home:
    """Another host, and what is different there."""

    host: Host
    env: Mapping[str, str]


@dataclass(slots=True)
class Fleet:
    """The processes, and what those that ended have said."""

    env: Mapping[str, str]
    folder: Path
    code: Path | None = None
    """Where `worker/` and `sql/` are taken from; None: from here."""
    homes: Sequence[Home] = ()
    """Where the services run, one after the other; what is run to its end runs here."""
    workers: list[Worker] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    ended_badly: list[str] = field(default_factory=list)
    _started: list[Worker] = field(default_factory=list)
    _keeping: list[asyncio.Task[None]] = field(default_factory=list)
    _closing: bool = False

    async def keep(self, count: int) -> None:
        """Keeps so many services running, as a service manager does: one that ends is started again."""
        for place in range(count):
            self.workers.append(await self._service(place))
            self._keeping.append(asyncio.create_task(self._keep(place)))

    async def _keep(self, place: int) -> None:
        while True:
            await self._heard(self.workers[place])
            if self._closing:
                return
            await asyncio.sleep(_AWAY_S)
            if self._closing:
                return
            self.workers[place] = await self._service(place)

    async def once(self, *args: str) -> Ended:
        """Runs a command to its end."""
        worker = await self._start(*args)
        out, err = await self._heard(worker)
        assert worker.process.returncode is not None
        return Ended(worker.process.returncode, out, err)

    async def end(self) -> list[int]:
        """Stops all of them with SIGTERM. Returns how they ended."""
        self._closing = True
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        await asyncio.gather(*self._keeping)
        return [worker.process.returncode or 0 for worker in self.workers]

    async def kill(self) -> None:
        """Whatever is left."""
        self._closing = True
        for keeping in self._keeping:
            keeping.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for worker in self._started:
            worker.signal(signal.SIGKILL)
        await asyncio.gather(*(worker.ends for worker in self._started), return_exceptions=True)

    async def _heard(self, worker: Worker) -> tuple[str, str]:
        out, err = (part.decode(errors="replace") for part in await asyncio.shield(worker.ends))
        self.said += [out, err]
        code = worker.process.returncode
        if code not in _EXPECTED:
            self.ended_badly.append(f"a process ended with {code}: {err[-600:]}")
        return out, err

    async def _service(self, place: int) -> Worker:
        return await self._start("run", home=self.homes[place % len(self.homes)] if self.homes else None)

    async def _start(self, *args: str, home: Home | None = None) -> Worker:
        clocks = self.folder / f"clocks-{len(self._started)}"
        set_clocks(clocks)
        process = await start(
            *args,
            env={**self.env, **(home.env if home else {}), FILE: str(clocks)},
            cwd=str(self.code) if self.code else None,
            module="tests.chaos.worker",
            prefix=home.host.prefix if home else (),
        )
        worker = Worker(process, clocks, asyncio.create_task(process.communicate()))
        self._started.append(worker)
        return worker


@contextlib.asynccontextmanager
async def fleet_of(
    env: Mapping[str, str], folder: Path, *, code: Path | None = None, homes: Sequence[Home] = ()
) -> AsyncIterator[Fleet]:
    """No process yet; all that are started are gone at the end."""
    fleet = Fleet(env, folder, code, homes)
    try:
        yield fleet
    finally:
        await fleet.kill()
