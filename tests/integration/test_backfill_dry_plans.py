"""The plans of what a dry run of a backfill asks: index lookups by account, whatever the backlog and the history."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from tests.support.database import Database
from tests.support.plans import nodes
from worker.config import DatabaseSettings
from worker.database import connect_options
from worker.sqlfiles import query

STATEMENTS: dict[str, list[Any]] = {
    "backfill_known": [["default"], "may.csv"],
    "backfill_known_lines": ["default", "may.csv", 0, 10, 10],
    "backfill_would_leave_out": [["default"], ["app_1"], datetime.now(UTC)],
    "backfill_lane": [["default"], 200, 30.0],
    "backfill_live_use": ["default", 86_400.0, 288, 90_000.0, 1.0],
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_every_table_is_read_by_account_through_an_index(database: Database, name: str) -> None:
    """Planned on empty tables, each scan is an index scan whose condition names the account."""
    conn = await asyncpg.connect(**(connect_options(DatabaseSettings()) | {"dsn": database.dsn}))
    try:
        plan = (await (await conn.prepare(query(name))).explain(*STATEMENTS[name]))[0]["Plan"]
    finally:
        await conn.close()
    scans = [node for node in nodes(plan) if "Relation Name" in node]
    assert scans
    for scan in scans:
        assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), scan
        assert "account" in scan["Index Cond"], scan
