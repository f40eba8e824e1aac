"""What the writers wrote, as they remember it, and what Postgres says became of their transactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import asyncpg

# `contract`: it breaks the contract, and is never sent. `api`: the API refuses it, if it is sent as it is.
Guilt = Literal["contract", "api"] | None


@dataclass(slots=True)
class Entered:
    """One change, as its writer gave it to Postgres."""

    xid: int
    """Its transaction. What became of that only Postgres knows: a commit may go through whose answer gets lost."""
    id: int
    appointment_id: str
    changes: Mapping[str, Any]
    guilt: Guilt
    undone: bool = False
    """It was in a savepoint that was rolled back."""


@dataclass(frozen=True, slots=True)
class Committed:
    """One change that was committed, and when."""

    id: int
    appointment_id: str
    changes: Mapping[str, Any]
    guilt: Guilt
    committed_at: datetime


@dataclass(slots=True)
class Ledger:
    """All changes that the writers made, committed or not."""

    entered: list[Entered] = field(default_factory=list)
    transactions: int = 0

    async def committed(self, conn: asyncpg.Connection) -> list[Committed]:
        """Those that are committed. The server keeps the times of commits (track_commit_timestamp)."""
        xids = sorted({one.xid for one in self.entered})
        rows = await conn.fetch(
            """
            SELECT x.xid, pg_xact_commit_timestamp(x.xid::text::xid8::xid) AS at
            FROM unnest($1::bigint[]) AS x (xid)
            WHERE pg_xact_status(x.xid::text::xid8) = 'committed'
            """,
            xids,
        )
        times = {row["xid"]: row["at"] for row in rows}
        return [
            Committed(one.id, one.appointment_id, one.changes, one.guilt, times[one.xid])
            for one in self.entered
            if one.xid in times and not one.undone
        ]
