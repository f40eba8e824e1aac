"""What the auditor judges by: the API's log, what the writers remember, the tables, and a history of every row that was
written, kept by triggers of the test's own. Nothing here uses the worker's code."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from tests.chaos.ledger import Committed, Ledger
from worker.sandbox import Appointments, Entry

Row = Mapping[str, Any]

# Between a statement's look at the clock and the trigger's, and between the clocks of log and database.
CLOCKS_S = 0.5

_UNREAD = "'{changes,resource,set_by}'::text[]"
_HISTORY = f"""
CREATE SCHEMA IF NOT EXISTS audit;
CREATE TABLE audit.history (
    seq      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid      xid8        NOT NULL DEFAULT pg_current_xact_id(),
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    relation text        NOT NULL,
    was      jsonb,
    became   jsonb
);
CREATE FUNCTION audit.remember() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO audit.history (relation, was, became)
    VALUES (TG_TABLE_NAME, to_jsonb(OLD) - {_UNREAD}, to_jsonb(NEW) - {_UNREAD});
    RETURN NULL;
END
$$;
"""
_KEPT = {
    "outbox": "UPDATE",
    "queue": "INSERT OR UPDATE",
    "appointment": "INSERT OR UPDATE",
    "attempt": "INSERT",
    "rate_slot": "UPDATE",
    "account": "UPDATE",
}


async def keep_history(conn: asyncpg.Connection) -> None:
    """From now on, what is written to the tables is remembered, with its transaction and its moment."""
    await conn.execute(_HISTORY)
    for table, events in _KEPT.items():
        await conn.execute(
            f"CREATE TRIGGER audit AFTER {events} ON caspen_sync.{table} FOR EACH ROW EXECUTE FUNCTION audit.remember()"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the workers were told, in seconds."""

    limit: int
    window_s: float
    guard_s: float
    timeout_s: float

    @property
    def lease_s(self) -> float:
        """DESIGN: twice the timeout plus a margin, which is half of one."""
        return 2.5 * self.timeout_s


@dataclass(frozen=True, slots=True)
class Event:
    """One row as it was written."""

    xid: int
    at: datetime
    relation: str
    was: Row | None
    became: Row

    @property
    def key(self) -> str:
        """The appointment."""
        return str(self.became["appointment_id"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All of it, after a drain."""

    terms: Terms
    log: Sequence[Entry]
    remote: Mapping[str, Row]
    committed: Sequence[Committed]
    acknowledged: Collection[int]
    """The numbers of the changes whose writers were told that they are committed."""
    outbox: Sequence[Row]
    synced_state: Sequence[Row]
    attempts: Sequence[Row]
    history: Sequence[Event]
    brought_back: Mapping[str, Sequence[datetime]]
    """When a person made a change of this appointment pending again."""
    standing: Mapping[str, int]
    """How much of what must be nothing there is."""
    told: Sequence[str]
    """What people may read: last errors, errors of attempts, reasons of pauses."""
    said: Sequence[str]
    """What each process said."""
    secrets: Sequence[str]


_STANDING = """
SELECT (SELECT count(*) FROM caspen_sync.queue WHERE due_at < 'infinity') AS "appointments that are due or wait",
       (SELECT count(*) FROM caspen_sync.queue WHERE leased_until IS NOT NULL) AS leases,
       (SELECT count(*) FROM caspen_sync.arrival) AS arrivals
"""
_TOLD = """
SELECT last_error AS told FROM caspen_sync.outbox WHERE last_error IS NOT NULL
UNION SELECT error FROM caspen_sync.attempt WHERE error IS NOT NULL
"""


async def gather(
    conn: asyncpg.Connection,
    ledger: Ledger,
    *,
    terms: Terms,
    log: Sequence[Entry],
    remote: Appointments,
    said: Sequence[str],
    secrets: Sequence[str],
) -> Evidence:
    """Reads it all."""
    rows = await conn.fetch("SELECT xid::text::bigint, at, relation, was, became FROM audit.history ORDER BY seq")
    history = [
        Event(row["xid"], row["at"], row["relation"], row["was"] and json.loads(row["was"]), json.loads(row["became"]))
        for row in rows
    ]
    return Evidence(
        terms=terms,
        log=log,
        remote=remote,
        committed=await ledger.committed(conn),
        acknowledged=ledger.acknowledged,
        outbox=await conn.fetch("SELECT * FROM caspen_sync.outbox ORDER BY id"),
        synced_state=await conn.fetch("SELECT * FROM caspen_sync.appointment"),
        attempts=await conn.fetch("SELECT * FROM caspen_sync.attempt ORDER BY started_at"),
        history=history,
        brought_back=await _brought_back(conn),
        standing=dict(await conn.fetchrow(_STANDING)),
        told=[*(row["told"] for row in await conn.fetch(_TOLD)), *_reasons(history)],
        said=said,
        secrets=secrets,
    )


def _reasons(history: Sequence[Event]) -> set[str]:
    """Of all pauses that there were."""
    return {
        event.became["pause_reason"]
        for event in history
        if event.relation == "account" and event.became["pause_reason"]
    }


async def _brought_back(conn: asyncpg.Connection) -> Mapping[str, Sequence[datetime]]:
    rows = await conn.fetch(
        """
        SELECT o.appointment_id, array_agg(i.at) AS moments
        FROM caspen_sync.intervention i
        JOIN caspen_sync.outbox o ON o.account = i.account AND o.id = i.change_id
        WHERE i.action = 'retry'
        GROUP BY o.appointment_id
        """
    )
    return {row["appointment_id"]: row["moments"] for row in rows}
