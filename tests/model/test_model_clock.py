"""Simulated time reaches all of the product's SQL."""

from __future__ import annotations

import re

from tests.model.stage import Stage
from worker.sqlfiles import sql_dir


def test_every_statement_asks_for_the_time_by_a_name_that_can_be_replaced() -> None:
    """now() and clock_timestamp(), without a schema: what else tells the time would be real in the model."""
    other = re.compile(
        r"current_timestamp|current_date|localtime|(transaction|statement)_timestamp|timeofday|pg_catalog\.(now|clock)",
        re.IGNORECASE,
    )
    found = [path.name for path in (sql_dir() / "queries").glob("*.sql") if other.search(path.read_text("utf-8"))]
    assert found == []


def test_a_worker_in_the_model_lives_in_its_time(stage: Stage) -> None:
    """now() stands still within a transaction, clock_timestamp() goes on, and both go where the model says."""

    async def told() -> None:
        async with stage.pool.acquire() as conn, conn.transaction():
            began = await conn.fetchval("SELECT now()")
            assert abs(began.timestamp() - stage.clock.now()) < 1
            await stage.clock.move_to(stage.control, stage.clock.now() + 100)
            assert await conn.fetchval("SELECT now()") == began
            assert 100 <= (await conn.fetchval("SELECT clock_timestamp()") - began).total_seconds() < 101

    stage.loop.run_until_complete(told())
