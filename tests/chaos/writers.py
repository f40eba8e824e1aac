"""Applications that write changes: several at once on the same appointments, in transactions of any length, some of
which are rolled back, through every fault of the database."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from tests.chaos.ledger import Guilt, Ledger
from worker.sandbox.resource import NO_SUCH_ROOM

# Every note begins like this; nobody but the API and the database may ever hear it.
SECRET = "Mrs Storm coughs"

_DAWN = datetime(2024, 1, 1, 10, tzinfo=UTC)
# What a lost connection of a writer's comes to, a server that goes or has no disk. Anything else is a mistake of ours.
_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


def made_up(chance: random.Random, number: int, guilty: float) -> tuple[dict[str, Any], Guilt]:
    """A change, in each field of which its number can be read, unless it is null; and what is wrong with it. `guilty`:
    the share of those with which something is."""
    fields: dict[str, Any] = {}
    if chance.random() < 0.7:
        fields["note"] = None if chance.random() < 0.15 else f"{SECRET} {number}"
    if chance.random() < 0.4:
        fields["room_id"] = None if chance.random() < 0.2 else number
    if chance.random() < 0.3:
        fields["vehicle_id"] = None if chance.random() < 0.2 else number
    if chance.random() < 0.3:
        fields["resource_ids"] = [number]
    if chance.random() < 0.2:
        fields |= {
            "starts_at": (_DAWN + timedelta(minutes=number)).isoformat(),
            "ends_at": (_DAWN + timedelta(minutes=number + 30)).isoformat(),
        }
    if chance.random() < 0.2:
        fields["client_id"] = number
    if not fields:
        fields["note"] = f"{SECRET} {number}"
    if chance.random() < guilty:
        if chance.random() < 0.5:
            return fields | {"colour": "red"}, "contract"
        return fields | {"room_id": NO_SUCH_ROOM}, "api"
    return fields, None


class Writers:
    """Some of them, on the same appointments, until told to stop."""

    def __init__(self, dsn: str, ledger: Ledger, *, appointments: int, per_s: float, seed: int, guilty: float) -> None:
        """`per_s`: transactions a second, all together."""
        self._dsn = dsn
        self._ledger = ledger
        self._appointments = [f"app_{number:04}" for number in range(appointments)]
        self._per_s = per_s
        self._seed = seed
        self._guilty = guilty
        self._numbers = itertools.count(1)

    async def run(self, count: int, done: asyncio.Event) -> None:
        """`count` writers at once, of which one takes its time over each transaction."""
        async with asyncio.TaskGroup() as group:
            for one in range(count):
                chance = random.Random(f"{self._seed} writer {one}")
                group.create_task(self._write(chance, count / self._per_s, done, slow=one == 0))

    async def _write(self, chance: random.Random, every_s: float, done: asyncio.Event, *, slow: bool) -> None:
        while not done.is_set():
            try:
                conn = await asyncpg.connect(self._dsn, timeout=5, command_timeout=20)
            except _AWAY:
                await _pause(0.2, done)
                continue
            try:
                while not done.is_set():
                    await self._transaction(chance, conn, stays_s=chance.uniform(0.5, 4) if slow else 0.0)
                    await _pause(chance.uniform(0, 2 * every_s), done)
            except _AWAY:
                pass
            finally:
                conn.terminate()

    async def _transaction(self, chance: random.Random, conn: asyncpg.Connection, *, stays_s: float) -> None:
        # In the order of appointments, as the README asks for: else two writers could wait for each other.
        chosen = sorted(self._choose(chance) for _ in range(chance.choice((1, 1, 1, 2, 4))))
        numbers: list[int] = []
        transaction = conn.transaction()
        await transaction.start()
        self._ledger.transactions += 1
        for appointment in chosen:
            if chance.random() < 0.1:
                await self._undone(chance, conn, appointment)
            else:
                numbers.append(await self._insert(chance, conn, appointment))
        if stays_s:
            await asyncio.sleep(stays_s)
        if chance.random() < 0.08:
            await transaction.rollback()
        else:
            await transaction.commit()
            self._ledger.acknowledged.update(numbers)

    async def _undone(self, chance: random.Random, conn: asyncpg.Connection, appointment: str) -> None:
        """In a savepoint, which is rolled back."""
        savepoint = conn.transaction()
        await savepoint.start()
        await self._insert(chance, conn, appointment)
        await savepoint.rollback()

    async def _insert(self, chance: random.Random, conn: asyncpg.Connection, appointment: str) -> int:
        changes, guilt = made_up(chance, next(self._numbers), self._guilty)
        lane = "backfill" if chance.random() < 0.1 else "live"
        return await self._ledger.enter(conn, appointment, changes, lane=lane, guilt=guilt)

    def _choose(self, chance: random.Random) -> str:
        """Some appointments far more often than others."""
        return self._appointments[int(len(self._appointments) * chance.random() ** 2)]


async def _pause(seconds: float, done: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await done.wait()
