"""What a batch costs grows with the batch, and with nothing else: each row is looked up by its key.

A join over a batch of keys is tempting: with the whole table, which is cheapest while that is small, or of the batch
with itself, which is cheapest while it is expected to be a handful. The plan lasts, the smallness does not.
"""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tests.integration.test_plans import worker_connection
from tests.support.claims import accepted, claim, limits, registered
from tests.support.database import Database
from tests.support.plans import found_empty, nodes
from worker.sqlfiles import query
from worker.store import _columns, _slot_columns

__all__ = ["worker_connection"]

BATCH = 64
DUE = 600
# A row is looked up, locked, checked, changed and returned; no step has a reason to see each of them more than twice.
MOST = 2 * BATCH


@pytest.fixture(params=["few", "none"])
async def analyzed(database: Database, request: pytest.FixtureRequest) -> Database:
    """A few hundred appointments, of which Postgres knows that they are few, or thinks that there are none; each has a
    change that just arrived."""
    store = await registered(database, limits(2_000))
    for taken_in in (True, False):
        await database.pool.execute(
            """
            INSERT INTO caspen_sync.outbox (appointment_id, changes)
            SELECT 'app_' || i, '{"note": null}' FROM generate_series(1, $1::int) AS i
            """,
            DUE,
        )
        while taken_in and await store.take_in(["default"]):
            pass
    for table in ("outbox", "queue", "rate_slot", "arrival", "account", "appointment", "attempt"):
        await database.pool.execute(f"VACUUM ANALYZE caspen_sync.{table}")
    if request.param == "none":
        await found_empty(database.pool)
    return database


async def costs(conn: asyncpg.Connection, name: str, *arguments: Any) -> dict[str, float]:
    """How many rows each step of the plan saw, those it threw away included."""
    prepared = await conn.prepare(query(name))
    async with conn.transaction():
        plan = (await prepared.explain(*arguments, analyze=True))[0]["Plan"]
    seen: dict[str, float] = {}
    for number, node in enumerate(nodes(plan)):
        removed = sum(rows for key, rows in node.items() if key.startswith("Rows Removed by"))
        what = f"{number}: {node['Node Type']} {node.get('Relation Name', node.get('CTE Name', ''))}"
        seen[what] = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return seen


def dear(seen: dict[str, float], most: float) -> dict[str, float]:
    return {what: rows for what, rows in seen.items() if rows > most}


@pytest.mark.usefixtures("analyzed")
async def test_a_claim_of_many(worker_connection: asyncpg.Connection) -> None:
    """64 claims at once see each of their rows a time or two."""
    arguments = (["default"], [BATCH], "w", 30.0, 75.0, 1000, 65_536, 32_768)
    seen = await costs(worker_connection, "claim", *arguments)
    assert max(seen.values()) >= BATCH
    assert not dear(seen, MOST)


async def test_a_settling_of_many(analyzed: Database, worker_connection: asyncpg.Connection) -> None:
    """So does writing them back."""
    store = await registered(analyzed, limits(2_000))
    settlements = [accepted(claimed) for claimed in await claim(store, BATCH)]
    assert len(settlements) == BATCH
    arguments = (*_columns(settlements), "w", *_slot_columns(settlements, {"default": 60.5}))
    seen = await costs(worker_connection, "settle", *arguments)
    assert max(seen.values()) >= BATCH
    assert not dear(seen, MOST)


@pytest.mark.usefixtures("analyzed")
async def test_a_taking_in_of_many(worker_connection: asyncpg.Connection) -> None:
    """So does the taking in of arrivals."""
    seen = await costs(worker_connection, "take_in", ["default"], BATCH)
    assert max(seen.values()) >= BATCH
    assert not dear(seen, MOST)
