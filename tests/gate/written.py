"""What was written: read out of the write-ahead log itself, so that it is exact, and known at once.

Full-page images are switched off: how many there are depends on when checkpoints are. So is autovacuum. The statistics
of Postgres count dead tuples, too, but only once each backend has told, and say nothing of indexes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from tests.support.database import Database
from tests.support.servers import looked_into, server_on_a_copy

SETTINGS = {
    "autovacuum": "off",
    "full_page_writes": "off",
    "checkpoint_timeout": "1d",
    "max_wal_size": "8GB",  # nor is there a checkpoint for having written much
}

# Heartbeats are written by the clock.
_RECORDS = """
    WITH blocks AS (
        SELECT c.relname, b.*
        FROM pg_get_wal_block_info($1, $2, false) AS b
        JOIN pg_class c ON c.relfilenode = b.relfilenode
        JOIN pg_database d ON d.oid = b.reldatabase AND d.datname = current_database()
        WHERE c.relnamespace = 'caspen_sync'::regnamespace
    ), heartbeats AS (
        SELECT xid FROM blocks WHERE relname = 'worker' AND xid::text <> '0' -- which is nobody's
    )
    SELECT relname AS relation, resource_manager || ' ' || record_type AS record, count(*) AS records,
           sum(record_length - block_fpi_length)::bigint AS bytes
    FROM blocks
    WHERE block_id = 0 AND resource_manager IN ('Heap', 'Heap2', 'Btree') AND xid NOT IN (SELECT xid FROM heartbeats)
    GROUP BY relname, resource_manager, record_type
    UNION ALL
    SELECT 'commits', record_type, count(*), sum(record_length)::bigint
    FROM pg_get_wal_records_info($1, $2)
    WHERE resource_manager = 'Transaction' AND record_type = 'COMMIT' AND xid NOT IN (SELECT xid FROM heartbeats)
    GROUP BY record_type
"""
_KILLS = ("Heap UPDATE", "Heap HOT_UPDATE", "Heap DELETE")
# A page that is split for an entry takes it in at that.
_ENTERS = ("Btree INSERT_LEAF", "Btree INSERT_POST", "Btree SPLIT_L", "Btree SPLIT_R")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written between two moments, by table or index."""

    wal_bytes: Counter[str] = field(default_factory=Counter)
    dead_tuples: Counter[str] = field(default_factory=Counter)
    """Each update and each delete leaves one behind."""
    cold_updates: Counter[str] = field(default_factory=Counter)
    """The updates among them that were not heap-only, and so had to write to every index."""
    index_entries: Counter[str] = field(default_factory=Counter)


class Log:
    """The write-ahead log of a server that nobody else uses."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn

    async def now(self) -> int:
        """Where the log ends. All that was written by now is in it, what was rolled back, too."""
        await self._conn.execute("SELECT pg_logical_emit_message(false, 'gate', '', true)")
        return int(await self._conn.fetchval("SELECT pg_current_wal_insert_lsn()"))

    async def since(self, before: int) -> Written:
        now = await self.now()
        written = Written()
        for relation, record, records, size in await self._conn.fetch(_RECORDS, before, now):
            kind = record.removesuffix("+INIT")
            written.wal_bytes[relation] += size
            if kind in _KILLS:
                written.dead_tuples[relation] += records
            if kind == "Heap UPDATE":
                written.cold_updates[relation] += records
            if kind in _ENTERS:
                written.index_entries[relation] += records
        return written


@dataclass(frozen=True, slots=True)
class Ground:
    """A server of a scenario's own."""

    port: int
    database: Database
    log: Log

    def dsn(self, port: int) -> str:
        """The way through a proxy on this port."""
        return self.database.dsn.replace(f":{self.port}/", f":{port}/") + "?sslmode=disable"


@contextlib.asynccontextmanager
async def ground(cluster: Path) -> AsyncIterator[Ground]:
    """A running server on a copy of a migrated data directory, on which nothing happens by itself."""
    async with server_on_a_copy(cluster, **SETTINGS) as server, looked_into(server.dsn()) as database:
        conn = await asyncpg.connect(server.dsn())
        try:
            await conn.execute("CREATE EXTENSION pg_walinspect")
            yield Ground(port=server.port, database=database, log=Log(conn))
        finally:
            await conn.close()
