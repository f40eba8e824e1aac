"""A service that is watched through a fault of its database, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.audit import (
    assert_accounted_for,
    assert_final_state,
    assert_id_order,
    assert_no_overlap,
    assert_settled,
)
from tests.support.database import Database
from tests.support.processes import TOKEN, Ended, command, environment, start, stop
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings

PASSWORD = "hunter2-9c1f"
# Leases outlast the faults, so that whatever the API accepts is written by the one who sent it, and nothing goes twice.
PATIENT = {"API__TIMEOUT_S": "25"}


@dataclass(frozen=True, slots=True)
class Watched:
    """A running `caspen-sync run`, whose words are read as it says them."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its log events of this name, so far."""
        said = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [event for event in said if event["event"] == name]

    async def says(self, name: str, words: str = "", *, limit_s: float = 20) -> None:
        """Waits for an event whose error holds the words."""
        await eventually(
            lambda: any(words in event.get("error", "") for event in self.events(name)),
            limit_s=limit_s,
            what=f"the event {name} with {words!r}; said so far: {self.lines[-5:]}",
        )

    async def ends(self, limit_s: float = 60) -> Ended:
        """How it ends by itself."""
        async with asyncio.timeout(limit_s):
            exit_code = await self.process.wait()
        await eventually(lambda: self.process.stderr and self.process.stderr.at_eof())
        return Ended(exit_code, "", "\n".join(self.lines))

    def one_line(self) -> str:
        """The one line for a person."""
        (line,) = [line for line in self.lines if not line.startswith("{")]
        return line


@contextlib.asynccontextmanager
async def watched(env: Mapping[str, str], *args: str) -> AsyncIterator[Watched]:
    """`caspen-sync run ARGS`, killed at the end unless it has ended by itself. It must have been discreet."""
    process = await start("run", "--log-level", "debug", *args, env=env)
    service = Watched(process)

    async def read() -> None:
        assert process.stderr
        async for line in process.stderr:
            service.lines.append(line.decode().rstrip("\n"))

    reading = asyncio.create_task(read())
    try:
        yield service
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading
        print("\n".join(service.lines[-40:]))
    discreet("\n".join(service.lines))


def discreet(output: str) -> None:
    """No traceback, no password, no token and nothing of a body."""
    assert "Traceback" not in output
    assert "exception was never retrieved" not in output
    assert PASSWORD not in output
    assert TOKEN not in output
    assert not re.search(r"change \d", output)


@dataclass(frozen=True, slots=True)
class Clinic:
    """A database, an API and what joins them."""

    database: Database
    sandbox: Sandbox
    env: dict[str, str]

    async def write(self, count: int, note: int = 1) -> None:
        """A change for each of `count` appointments; `note` numbers an appointment's changes."""
        for number in range(count):
            await self.database.write(f"app_{number}", {"note": f"change {note}"})

    async def on_the_wire(self, count: int) -> None:
        """Waits until the API has so many requests and has answered none of them."""
        await eventually(
            lambda: len([entry for entry in self.sandbox.log if entry.in_flight]) == count,
            what=f"{count} requests on the wire",
        )

    async def answered(self) -> None:
        """Waits until the API has answered what it was sent."""
        await eventually(lambda: not any(entry.in_flight for entry in self.sandbox.log), what="the API has answered")

    async def all_synced(self, limit_s: float = 20) -> None:
        """Waits until nothing is pending."""

        async def synced() -> bool:
            return set(await self.database.states()) == {"synced"}

        await eventually(synced, limit_s=limit_s, what="all changes are synced")

    async def waits_for_a_lock(self) -> bool:
        """Whether a worker's statement waits for a lock that somebody holds."""
        return bool(await self.backends("count(*)", "wait_event_type = 'Lock'"))

    async def backends(self, what: str, where: str = "true") -> Any:
        """Something about the workers' sessions."""
        return await self.database.value(
            f"""
            SELECT {what} FROM pg_stat_activity
            WHERE application_name = 'caspen-sync' AND datname = current_database() AND {where}
            """
        )

    async def nothing_lost(self, limit_s: float = 20, *, sent_once: bool = True) -> None:
        """Everything is synced in the end, no request overlapped another or went twice, and the attempts add up."""
        await self.all_synced(limit_s)
        # A claim reads what is committed, so a change may be synced before its own arrival is taken in.
        await eventually(lambda: self.database.value("SELECT count(*) = 0 FROM caspen_sync.arrival"), what="taken in")
        await assert_settled(self.database)
        await assert_final_state(self.database, self.sandbox.appointments)
        await assert_accounted_for(self.database, self.sandbox.log)
        assert_no_overlap(self.sandbox.log)
        assert_id_order(self.sandbox.log)
        assert await self.database.value("SELECT count(*) FROM caspen_sync.attempt") == len(self.sandbox.log)
        if not sent_once:
            return
        changes = await self.database.value("SELECT sum(cardinality(change_ids)) FROM caspen_sync.attempt")
        assert changes == await self.database.value("SELECT count(*) FROM caspen_sync.outbox")

    async def stopped(self, service: Watched) -> None:
        """The service ends as asked, and lost no lease."""
        assert await stop(service.process) == 0
        assert not service.events("lease_lost")


@contextlib.asynccontextmanager
async def clinic(
    database: Database, *, latency_s: float = 0.0, dsn: str | None = None, **settings: str
) -> AsyncIterator[Clinic]:
    """An API beside the database. `dsn`: how the workers reach it; `settings`: of the workers."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, latency_s=latency_s)) as sandbox:
        yield Clinic(database, sandbox, environment(dsn or database.dsn, sandbox.base_url, PATIENT | settings))


async def refused(env: Mapping[str, str], *args: str, exit_code: int, words: str) -> None:
    """The command ends so, and says why in one line."""
    ended = await command(*args, env=env)
    discreet(ended.stdout + ended.stderr)
    (line,) = ended.stderr.splitlines()
    assert line.startswith("caspen-sync: ")
    assert words in line
    assert ended.exit_code == exit_code
