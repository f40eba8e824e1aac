"""What the writers wrote: each change is entered here in the very transaction that writes it, so that the two are
committed together, or neither is, whatever becomes of the connection, the transaction's number or the server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import asyncpg

# `contract`: it breaks the contract, and is never sent. `api`: the API refuses it, if it is sent as it is.
Guilt = Literal["contract", "api"] | None

_TABLE = """
CREATE SCHEMA IF NOT EXISTS audit;
CREATE TABLE audit.entered (
    number         bigint PRIMARY KEY,
    change_id      bigint NOT NULL,
    appointment_id text   NOT NULL,
    changes        jsonb  NOT NULL,
    guilt          text
);
"""
_ENTER = """
WITH written AS (
    INSERT INTO caspen_sync.outbox (appointment_id, changes, lane) VALUES ($2, $3, $4) RETURNING id
)
INSERT INTO audit.entered (number, change_id, appointment_id, changes, guilt)
SELECT $1, id, $2, $3, $5 FROM written
"""
_COMMITTED = """
SELECT number, change_id, appointment_id, changes, guilt, pg_xact_commit_timestamp(xmin) AS committed_at
FROM audit.entered
"""


@dataclass(frozen=True, slots=True)
class Committed:
    """One change that was committed, and when."""

    number: int
    id: int
    appointment_id: str
    changes: Mapping[str, Any]
    guilt: Guilt
    committed_at: datetime


@dataclass(slots=True)
class Ledger:
    """The changes of all writers. The server keeps the times of commits (track_commit_timestamp)."""

    entered: int = 0
    transactions: int = 0
    acknowledged: set[int] = field(default_factory=set)
    """The numbers of those whose commit was confirmed."""

    async def open(self, conn: asyncpg.Connection) -> None:
        await conn.execute(_TABLE)

    async def enter(
        self, conn: asyncpg.Connection, appointment_id: str, changes: Mapping[str, Any], *, lane: str, guilt: Guilt
    ) -> int:
        """What an application does, and an entry of it. Returns its number."""
        self.entered += 1
        number = self.entered
        await conn.execute(_ENTER, number, appointment_id, json.dumps(changes), lane, guilt)
        return number

    async def committed(self, conn: asyncpg.Connection) -> Sequence[Committed]:
        """Those that are committed."""
        return [
            Committed(
                row["number"],
                row["change_id"],
                row["appointment_id"],
                json.loads(row["changes"]),
                row["guilt"],
                row["committed_at"],
            )
            for row in await conn.fetch(_COMMITTED)
        ]
