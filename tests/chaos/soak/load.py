"""The load of a soak: a steady writer, people who look at the page, and errands one after the other, as cron and people
run them. The books say what must have come of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from tests.bench.processes import ended
from tests.chaos.soak.plan import DAY_S, Plan
from tests.support.changes import made_up_change
from tests.support.processes import Ended, start

BURST = 3
BURST_SHARE = 0.1
REFUSED_SHARE = 0.01
# An end before its start: the API refuses it, and no other change of the load touches it.
REFUSED = {"ends_at": "2000-01-01T00:00:00Z"}
BACKFILL_LINES = 60
PAUSE_S = 1.0
ERRAND_LIMIT_S = 180.0

_WRITE = "INSERT INTO caspen_sync.outbox (appointment_id, changes) VALUES ($1, $2)"
_PRUNED = re.compile(r"deleted ([\d,]+) finished changes?\b")


@dataclass(slots=True)
class Books:
    """What was written, and what became of it as far as the soak itself has done that."""

    fields: defaultdict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    """By appointment: what each field must hold in the end."""
    written: int = 0
    """Changes, those of backfills among them."""
    pruned: int = 0
    refused: int = 0
    pruned_at: float = 0.0
    """When the last prune began, in Unix time."""
    errands: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Load:
    """All that goes on beside the services until `over` is set."""

    plan: Plan
    dsn: str
    env: Mapping[str, str]
    addresses: tuple[str, ...]
    folder: Path
    over: asyncio.Event = field(default_factory=asyncio.Event)
    books: Books = field(default_factory=Books)

    async def run(self) -> None:
        """Raises the error of whatever part fails first."""
        async with asyncio.TaskGroup() as parts:
            for part in (self._write, self._look, self._errands):
                parts.create_task(part())

    # -- the writer ----------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        chance = random.Random(self.plan.seed)
        numbers: Counter[str] = Counter()
        conn = await asyncpg.connect(self.dsn, server_settings={"application_name": "soak writer"})
        try:
            began, written = time.monotonic(), 0
            while not self.over.is_set():
                appointment = _appointment(chance.randrange(self.plan.appointments))
                changes = []
                for _ in range(BURST if chance.random() < BURST_SHARE else 1):
                    if chance.random() < REFUSED_SHARE:
                        changes.append(REFUSED)
                        continue
                    numbers[appointment] += 1
                    changes.append(made_up_change(chance, numbers[appointment]))
                await conn.executemany(_WRITE, [(appointment, json.dumps(change)) for change in changes])
                self._enter(appointment, changes)
                written += len(changes)
                await self._rest(began + written / self.plan.changes_per_s - time.monotonic())
        finally:
            await conn.close(timeout=5)

    def _enter(self, appointment: str, changes: list[dict[str, Any]]) -> None:
        self.books.written += len(changes)
        for change in changes:
            if change is REFUSED:
                self.books.refused += 1
            else:
                self.books.fields[appointment].update(change)

    # -- people at the page --------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Somebody looks at the page's stream for a while, goes, and comes back, to one service and then the other."""
        visit_s = 5 * self.plan.rest_s
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        while not self.over.is_set():
            for address in self.addresses:
                async with aiohttp.ClientSession(timeout=timeout) as session:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(visit_s), session.get(f"http://{address}/live") as answer:
                            answer.raise_for_status()
                            async for _ in answer.content.iter_any():
                                if self.over.is_set():
                                    return
                self.books.errands["visit to the page"] += 1
                await self._rest(self.plan.rest_s)

    # -- errands -------------------------------------------------------------------------------------------------------

    async def _errands(self) -> None:
        """One at a time: a pause by hand would leave work to a cron job beside it, and the machine is small."""
        chance = random.Random(self.plan.seed + 1)
        errands: tuple[Callable[[random.Random], Awaitable[None]], ...] = (
            self._prune, self._discard, self._cron, self._prune, self._backfill, self._prune, self._pause
        )  # fmt: skip
        while True:
            for errand in errands:
                await self._rest(self.plan.rest_s)
                if self.over.is_set():
                    return
                await errand(chance)

    async def _prune(self, _: random.Random) -> None:
        self.books.pruned_at = time.time()
        done = await self._errand("prune", "--older-than", f"{self.plan.retention_s / DAY_S:.9f}")
        found = _PRUNED.search(done.stdout)
        assert found, f"prune says {done.stdout!r}"
        self.books.pruned += int(found[1].replace(",", ""))

    async def _discard(self, _: random.Random) -> None:
        await self._errand("parked", "discard", "--all", "--yes", "--reason", "soak")

    async def _cron(self, _: random.Random) -> None:
        # Beside a steady writer something is always due.
        await self._errand("run", "--once", "--max-runtime", "5", allowed=(0, 65, 75))

    async def _backfill(self, chance: random.Random) -> None:
        """Its lines set a field that nothing else sets, so that what must come of both is known."""
        appointments = chance.sample(range(self.plan.appointments), BACKFILL_LINES)
        lines = {_appointment(number): {"vehicle_id": chance.randrange(10**6)} for number in appointments}
        file = self.folder / f"nightly-{self.books.errands['backfill'] + 1}.jsonl"
        file.write_text("".join(f"{json.dumps({'appointment_id': one, 'changes': lines[one]})}\n" for one in lines))
        await self._errand("backfill", str(file), "--wait")
        file.unlink()
        for appointment, changes in lines.items():
            self._enter(appointment, [changes])

    async def _pause(self, _: random.Random) -> None:
        await self._errand("pause", "default", "--reason", "soak")
        await self._rest(PAUSE_S)
        await self._errand("resume", "default")

    async def _errand(self, *args: str, allowed: tuple[int, ...] = (0,)) -> Ended:
        done = await errand(self.env, *args)
        assert done.exit_code in allowed, f"{' '.join(args)} ended with {done.exit_code}: {done.stderr[-2000:]}"
        self.books.errands[args[0] if args[:2] != ("run", "--once") else "run --once"] += 1
        return done

    async def _rest(self, seconds: float) -> None:
        """Unless it is over sooner."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.over.wait()


async def errand(env: Mapping[str, str], *args: str) -> Ended:
    """Runs a command to its end; it does not outlive us."""
    process = await start(*args, env=env)
    async with ended(process), asyncio.timeout(ERRAND_LIMIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


def _appointment(number: int) -> str:
    return f"app_{number:04}"
