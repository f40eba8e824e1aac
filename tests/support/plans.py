"""Plans, as EXPLAIN (FORMAT JSON) tells them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

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
