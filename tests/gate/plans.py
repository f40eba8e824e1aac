"""What the plans of the statements read, as they run: with the plan that a worker's connection keeps, and with the very
arguments that it was called with."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg

from tests.gate.wire import ours
from worker.config import DatabaseSettings
from worker.database import connect_options

EVERY_NODE = "every node"

Plans = dict[str, Counter[str]]
_wanted: list[Plans] = []


class Explaining(asyncpg.Connection):  # type: ignore[misc]  # asyncpg is not typed
    """A worker's connection. Where plans are wanted, it explains each statement before it runs it, and takes back what
    that did."""

    async def fetch(self, text: str, *args: Any, **kwargs: Any) -> Any:
        await self._explain(text, args)
        return await super().fetch(text, *args, **kwargs)

    async def fetchrow(self, text: str, *args: Any, **kwargs: Any) -> Any:
        await self._explain(text, args)
        return await super().fetchrow(text, *args, **kwargs)

    async def fetchval(self, text: str, *args: Any, **kwargs: Any) -> Any:
        await self._explain(text, args)
        return await super().fetchval(text, *args, **kwargs)

    async def execute(self, text: str, *args: Any, **kwargs: Any) -> Any:
        await self._explain(text, args)
        return await super().execute(text, *args, **kwargs)

    async def _explain(self, text: str, args: tuple[Any, ...]) -> None:
        if not _wanted or text not in ours():
            return
        name = ours()[text]
        types = [kind.name for kind in (await self.prepare(text)).get_parameters()]
        # EXECUTE takes no parameters of its own; EXPLAIN of the bare statement would show another plan.
        given = [
            await super(Explaining, self).fetchval(f"SELECT quote_nullable(($1::{kind})::text)", arg)
            for kind, arg in zip(types, args, strict=True)
        ]
        values = f"({', '.join(given)})" if given else ""
        trial = self.transaction()
        await trial.start()
        try:
            await super().execute(f"PREPARE gate AS {text}")
            told = await super().fetchval(f"EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) EXECUTE gate{values}")
            await super().execute("DEALLOCATE gate")
        finally:
            await trial.rollback()
        _wanted[-1].setdefault(name, Counter()).update(rows_read(json.loads(told)[0]["Plan"]))


@contextlib.contextmanager
def plans() -> Iterator[Plans]:
    """What the statements in this block read, each by its name: rows of our tables, filtered ones too, and rows that
    went through any node, which is where a join the wrong way round shows."""
    _wanted.append({})
    try:
        yield _wanted[-1]
    finally:
        _wanted.pop()


@contextlib.asynccontextmanager
async def explaining_pool(dsn: str) -> AsyncIterator[asyncpg.Pool]:
    """One connection, as a worker makes it."""
    options = connect_options(DatabaseSettings()) | {"dsn": dsn, "connection_class": Explaining}
    pool = await asyncpg.create_pool(min_size=1, max_size=1, **options)
    try:
        yield pool
    finally:
        pool.terminate()


def rows_read(plan: dict[str, Any]) -> Counter[str]:
    read: Counter[str] = Counter()
    for node in _nodes(plan):
        removed = sum(count for key, count in node.items() if key.startswith("Rows Removed by"))
        rows = round((node["Actual Rows"] + removed) * node["Actual Loops"])
        read[EVERY_NODE] += rows
        if node.get("Schema") == "caspen_sync" and "Scan" in node["Node Type"]:
            read[node["Relation Name"]] += rows
    return read


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)
