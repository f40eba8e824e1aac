"""Settlements of requests that failed or were rejected, and what the database makes of them, without an engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import asyncpg

from tests.support.claims import REST_S, accepted, claim, ids, settlement
from tests.support.database import Database
from worker.claims import Claim, PauseKind, Settlement, Sign, Verdict, Written
from worker.config import RetrySettings
from worker.store import Store

PAUSE = """
UPDATE caspen_sync.account SET pause_kind = $1, pause_reason = $1, pauses = 1, paused_at = clock_timestamp(),
       paused_until = CASE WHEN $1 = 'manual' THEN 'infinity' ELSE clock_timestamp() + make_interval(secs => $2) END
"""


def store_of(database: Database, name: str, **retry: float) -> Store:
    """Another process's store."""
    return Store(database.workers, worker=name, retry=RetrySettings.model_validate(retry))


async def due(database: Database, store: Store, names: Iterable[str], lane: str = "live") -> dict[str, int]:
    """A change for each of these appointments, in their order; returns its id by appointment."""
    written = {name: await database.write(name, {"note": "n"}, lane=lane) for name in names}
    await store.take_in(["default"])
    return written


async def claims_by_name(store: Store, count: int = 20) -> dict[str, Claim]:
    """Claims what is due, by appointment."""
    return {one.appointment_id: one for one in await claim(store, count)}


def _signed(settled: Settlement, sign: Sign) -> Settlement:
    attempt = settled.attempts[0]
    return replace(
        settled, sign=replace(sign, started_at=attempt.started_at, told_at=attempt.started_at + attempt.duration_s)
    )


def failing(claimed: Claim, *, due_in_s: float = 0.0) -> Settlement:
    """The API failed: charged, and due again."""
    sign = Sign(kind="down", started_at=0, told_at=0, reason="503", change_ids=tuple(ids(claimed)), charged=1)
    return _signed(settlement(claimed, due_in_s=due_in_s), sign)


def rejecting(claimed: Claim, reason: str = "404") -> Settlement:
    """The API would not take it: charged and parked."""
    sign = Sign(kind="rejected", started_at=0, told_at=0, reason=reason, change_ids=tuple(ids(claimed)), charged=1)
    parked = tuple(Verdict(change_id=number, state="parked", charged=1, error=reason) for number in ids(claimed))
    return replace(_signed(settlement(claimed), sign), verdicts=parked)


def succeeding(claimed: Claim) -> Settlement:
    """The API took it."""
    return _signed(accepted(claimed), Sign(kind="accepted", started_at=0, told_at=0))


async def settle_all(store: Store, *settlements: Settlement, rest_s: float = REST_S) -> Written:
    """Writes back as the engine does: what a run-up cost is given back after the transaction that opens it."""
    written = await store.settle(settlements, {one.claim.account: rest_s for one in settlements})
    for account, kind in written.reinstate:
        await store.reinstate(account, kind)
    return written


async def account_row(database: Database) -> asyncpg.Record:
    (row,) = await database.rows("SELECT * FROM caspen_sync.account WHERE account = 'default'")
    return row


async def pause(database: Database, kind: PauseKind, for_s: float = 600.0) -> None:
    """Pauses every account, from now on."""
    await database.pool.execute(PAUSE, kind, for_s)


async def run_up(database: Database) -> dict[str, str]:
    """The kind of what went wrong in a row, by appointment."""
    rows = await database.rows("SELECT appointment_id, kind FROM caspen_sync.run_up")
    return {row["appointment_id"]: row["kind"] for row in rows}


async def changes(database: Database) -> Mapping[str, tuple[Any, ...]]:
    """State and attempts of the change of each appointment; of several, the newest's."""
    rows = await database.rows("SELECT appointment_id, state, attempts FROM caspen_sync.outbox ORDER BY id")
    return {row["appointment_id"]: (row["state"], row["attempts"]) for row in rows}
