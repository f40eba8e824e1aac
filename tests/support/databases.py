"""Databases of the tests: the next ones are made, and the used ones dropped, in the background while a test runs, since
either takes Postgres a tenth of a second or two."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import asyncpg

PREFIX = f"caspen_sync_test_{os.getpid()}"

# How many stand ready: a few short tests in a row need not wait either.
_AHEAD = 3

# The next is made while the last is dropped, which waits for a checkpoint.
_AT_ONCE = 2

_numbers = itertools.count(1)


class Databases:
    """Copies of one template on one server. `wanted`: how many will be asked for; no more are made ahead."""

    def __init__(self, server_dsn: str, template: str, wanted: int) -> None:
        self._server_dsn = server_dsn
        self._template = template
        self._wanted = wanted
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="databases")
        self._ready: deque[tuple[str, Future[None]]] = deque()
        self._dropped: list[Future[None]] = []

    async def take(self) -> str:
        """The name of a copy that nobody has used. Raises what went wrong when it was made."""
        if not self._ready:
            self._make_one()
        name, made = self._ready.popleft()
        while self._wanted > 0 and len(self._ready) < _AHEAD:
            self._make_one()
        await asyncio.wrap_future(made)
        return name

    def give_back(self, name: str) -> None:
        """It is dropped soon, whoever is connected to it; what goes wrong is raised at the end."""
        self._dropped.append(self._threads.submit(lambda: asyncio.run(drop(self._server_dsn, name))))

    def close(self) -> None:
        """Returns once all are dropped, and the threads are gone. Raises what went wrong in dropping."""
        for name, made in self._ready:
            if not made.cancel():
                made.exception()  # only waits: no test wanted it
                self.give_back(name)
        self._threads.shutdown()
        for dropped in self._dropped:
            dropped.result()

    def _make_one(self) -> None:
        self._wanted -= 1
        name = new_name()
        made = self._threads.submit(lambda: asyncio.run(create(self._server_dsn, name, template=self._template)))
        self._ready.append((name, made))


@contextmanager
def databases_ahead(server_dsn: str, template: str, wanted: int) -> Iterator[Databases]:
    """Databases that are closed at the end."""
    databases = Databases(server_dsn, template, wanted)
    try:
        yield databases
    finally:
        databases.close()


def new_name() -> str:
    """A name that no other database has."""
    return f"{PREFIX}_{next(_numbers)}"


async def create(server_dsn: str, name: str, *, template: str = "template1") -> None:
    """Nobody may be connected to the template."""
    admin = await asyncpg.connect(server_dsn)
    try:
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    finally:
        await admin.close()


async def drop(server_dsn: str, name: str) -> None:
    """Whoever is connected to it; no error if there is none."""
    admin = await asyncpg.connect(server_dsn)
    try:
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await admin.close()
