"""Partitioned schemas. With CASPEN_SYNC_TEST_PARTITIONED=N each test's database has its tables in N partitions, as
sql/sharding/partitioned.sql makes them.

PostgreSQL 18 up to 18.6 crashes unless it is told not to choose partitions at run time; see there. A test server of
such a version is told so, for good.
"""

from __future__ import annotations

import os

import asyncpg

from worker.migrate import migrate
from worker.sqlfiles import sql_dir

PARTITIONED = bool(os.environ.get("CASPEN_SYNC_TEST_PARTITIONED"))
"""Whether all databases are."""


def partitioned_sql() -> str:
    """The text of sql/sharding/partitioned.sql."""
    return (sql_dir() / "sharding" / "partitioned.sql").read_text("utf-8")


async def partition(conn: asyncpg.Connection, partitions: int) -> None:
    """What a person does with psql, on a server where that may be done."""
    if 180000 <= int(await conn.fetchval("SHOW server_version_num")) <= 180006:
        await conn.execute("ALTER SYSTEM SET enable_partition_pruning = off")
        await conn.execute("SELECT pg_reload_conf()")
        await conn.execute("SET enable_partition_pruning = off")  # the server may take a moment to hear of it
    await conn.execute(f"SET caspen_sync.partitions = {partitions}")
    await conn.execute(partitioned_sql())


async def migrate_as_wanted(conn: asyncpg.Connection) -> None:
    """The schema and the roles; partitioned, if the environment says so."""
    await migrate(conn, with_roles=True)
    if partitions := os.environ.get("CASPEN_SYNC_TEST_PARTITIONED"):
        await partition(conn, int(partitions))
