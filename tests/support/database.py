"""What tests do with a database besides what the product does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tests.support import canary


def with_database(dsn: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


@dataclass(frozen=True, slots=True)
class Database:
    """One migrated database."""

    dsn: str
    pool: asyncpg.Pool
    as_worker: asyncpg.Pool | None = None
    """A pool as a worker makes it: with its settings, through the PgBouncer if there is one."""

    @property
    def workers(self) -> asyncpg.Pool:
        """The pool for what a worker does in this process."""
        return self.as_worker or self.pool

    async def write(
        self,
        appointment_id: str,
        changes: Mapping[str, Any],
        *,
        account: str = "default",
        lane: str = "live",
        traceparent: str | None = None,
        conn: asyncpg.Connection | None = None,
    ) -> int:
        """What an application does; returns the id that the change got. `conn`: within its transaction."""
        canary.sing(changes)
        columns = {"account": account, "appointment_id": appointment_id, "changes": json.dumps(changes), "lane": lane}
        if traceparent is not None:
            columns["traceparent"] = traceparent
        places = ", ".join(f"${number + 1}" for number in range(len(columns)))
        return await (conn or self.pool).fetchval(
            f"INSERT INTO caspen_sync.outbox ({', '.join(columns)}) VALUES ({places}) RETURNING id", *columns.values()
        )

    async def value(self, sql: str, *args: Any) -> Any:
        return await self.pool.fetchval(sql, *args)

    async def rows(self, sql: str, *args: Any) -> Sequence[asyncpg.Record]:
        return await self.pool.fetch(sql, *args)

    async def states(self) -> dict[str, int]:
        """How many changes are in each state."""
        return {
            row["state"]: row["n"]
            for row in await self.rows("SELECT state, count(*) AS n FROM caspen_sync.outbox GROUP BY state")
        }
