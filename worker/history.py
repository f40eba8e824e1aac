"""What happened to an appointment and its changes: the requests that were made, and what people did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from worker.database import understood
from worker.sqlfiles import query


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedAttempt:
    """One HTTP request, as it stands in the log."""

    account: str
    started_at: datetime
    duration_ms: float
    outcome: str
    http_status: int | None
    change_ids: tuple[int, ...]
    error: str | None
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OneChange:
    """A change, whatever became of it, without its body."""

    id: int
    account: str
    appointment_id: str
    lane: str
    source: str | None
    created_at: datetime | None
    """None: the writer gave no time of a calendar, such as infinity."""
    state: str
    finished_at: datetime | None
    attempts: int
    error: str | None
    fields: tuple[str, ...]
    superseded: tuple[str, ...]
    """The fields of it that newer changes have set since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How an appointment is, in one account."""

    account: str
    pending: int
    """Changes; 1,000 may be more."""
    due_in_s: float | None
    """None: it is idle."""
    held: bool
    """Whether a worker speaks for it now."""
    failures: int
    """Claims in a row that ended in a wait."""
    synced_at: datetime | None
    """When the API's last answer came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervention:
    """What a person did to a change."""

    at: datetime
    action: str
    who: str
    reason: str | None
    left_out: tuple[str, ...]


async def attempts(
    conn: asyncpg.Connection,
    appointment_id: str,
    *,
    account: str | None = None,
    change_id: int | None = None,
    limit: int,
) -> list[LoggedAttempt]:
    """The newest requests for an appointment, or those that carried one of its changes; newest first."""
    with understood():
        rows = await conn.fetch(query("attempts"), account, appointment_id, change_id, limit)
    return [LoggedAttempt(**(dict(row) | {"change_ids": tuple(row["change_ids"])})) for row in rows]


async def interventions(conn: asyncpg.Connection, account: str, change_id: int) -> list[Intervention]:
    """What people did to a change, oldest first."""
    with understood():
        rows = await conn.fetch(query("interventions"), account, change_id)
    return [Intervention(**(dict(row) | {"left_out": tuple(row["left_out"] or ())})) for row in rows]


async def change(conn: asyncpg.Connection, account: str, change_id: int) -> OneChange | None:
    """One change; None: there is none, or it was deleted after the retention."""
    with understood():
        row = await conn.fetchrow(query("change"), account, change_id)
    if row is None:
        return None
    return OneChange(**(dict(row) | {"fields": tuple(row["fields"]), "superseded": tuple(row["superseded"])}))


async def standing(conn: asyncpg.Connection, appointment_id: str) -> list[Standing]:
    """How an appointment is, in each account that knows it."""
    with understood():
        return [Standing(**row) for row in await conn.fetch(query("standing"), appointment_id)]
