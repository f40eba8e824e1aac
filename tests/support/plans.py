"""Plans, as EXPLAIN (FORMAT JSON) tells them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import asyncpg

_PARTITION = re.compile(r"_\d+$")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The node and all below it."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def table_of(node: dict[str, Any]) -> str | None:
    """The table that a node reads or writes; of a partition, the one that it is of."""
    name = node.get("Relation Name")
    return None if name is None else _PARTITION.sub("", name)


async def found_empty(pool: asyncpg.Pool) -> None:
    """What a vacuum writes down of a table whose rows are all dead, or not committed yet: pages without rows. By that a
    planner reckons with one row, however many come, until the table is analyzed."""
    await pool.execute(
        "UPDATE pg_class SET reltuples = 0, relpages = 100 "
        "WHERE relnamespace = 'caspen_sync'::regnamespace AND relkind IN ('r', 'i')"
    )
