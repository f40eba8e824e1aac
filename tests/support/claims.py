"""Claims and what becomes of them, without an engine and without an API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg

from tests.support.database import Database
from tests.support.waiting import eventually
from worker import clock
from worker.claims import Answer, Attempt, Claim, Pause, PauseKind, Settlement, UsedSlot, Verdict, Written
from worker.config import AccountSettings
from worker.merge import set_by
from worker.store import Store

TIMEOUT_S = 30.0
LEASE_S = 60.0
REST_S = 60.5


def limits(rate_limit: int = 1000, **others: float) -> AccountSettings:
    """An account's settings; by default with more budget than a test can spend."""
    return AccountSettings.model_validate({"rate_limit": rate_limit, **others})


async def registered(
    database: Database,
    settings: AccountSettings | None = None,
    *,
    account: str = "default",
    worker: str = "worker-1",
    timeout_s: float = TIMEOUT_S,
) -> Store:
    """A store with one account written down."""
    store = Store(database.workers, worker=worker)
    await store.register({account: settings or limits()}, timeout_s=timeout_s)
    return store


async def claim(
    store: Store,
    capacity: int = 1,
    *,
    lease_s: float = LEASE_S,
    timeout_s: float = TIMEOUT_S,
    max_changes: int = 1000,
    account: str = "default",
) -> list[Claim]:
    """Claims at most `capacity` appointments of one account."""
    return await store.claim({account: capacity}, timeout_s=timeout_s, lease_s=lease_s, max_changes=max_changes)


async def the_claim(store: Store, *, lease_s: float = LEASE_S, max_changes: int = 1000) -> Claim:
    """Takes in whatever has arrived, and claims the one appointment that is due."""
    await store.take_in(["default"])
    (claimed,) = await claim(store, 10, lease_s=lease_s, max_changes=max_changes)
    return claimed


async def claim_arrival(
    store: Store, *, timeout_s: float = TIMEOUT_S, max_changes: int = 1000
) -> tuple[Claim, bool] | None:
    """Takes in and claims at once what arrived first, and tells whether more has."""
    return await store.claim_arrival("default", timeout_s=timeout_s, lease_s=LEASE_S, max_changes=max_changes)


def ids(claimed: Claim) -> list[int]:
    """The ids of a claim's changes, in the order in which they would be sent."""
    return [change.id for change in claimed.changes]


def settlement(claimed: Claim, *, due_in_s: float | None = None, answered_s_ago: float | None = 0.0) -> Settlement:
    """The request was made and nothing came of it: the changes stay pending, and the appointment is due in `due_in_s`.

    `answered_s_ago` None: no answer, so the slot is left as it is.
    """
    now = clock.now()
    ended_at = now - (answered_s_ago or 0.0)
    return Settlement(
        claim=claimed,
        upto_id=claimed.changes[-1].id,
        due_in_s=due_in_s,
        failures=0 if due_in_s is None else claimed.failures + 1,
        part_size=claimed.part_size,
        unsure_ids=claimed.unsure_ids,
        verdicts=tuple(
            Verdict(change_id=change.id, state=None, charged=1, error="no luck") for change in claimed.changes
        ),
        attempts=(
            Attempt(
                change_ids=tuple(ids(claimed)),
                started_at=ended_at - 0.25,
                duration_s=0.25,
                http_status=None if answered_s_ago is None else 200,
                outcome="test",
                error=None,
            ),
        ),
        slots=() if answered_s_ago is None else (UsedSlot(slot=claimed.slot, answered_at=ended_at),),
    )


def accepted(claimed: Claim, resource: dict[str, Any] | None = None, *, answered_s_ago: float = 0.0) -> Settlement:
    """The API took all changes of the claim and answered `resource`."""
    body = json.dumps({"id": claimed.appointment_id} | (resource or {}))
    return replace(
        settlement(claimed, answered_s_ago=answered_s_ago),
        verdicts=tuple(
            Verdict(change_id=change.id, state="synced", charged=1, error=None) for change in claimed.changes
        ),
        answer=Answer(
            fields=body, resource=body, last_change_id=claimed.changes[-1].id, set_by=set_by(claimed.changes)
        ),
    )


def stopped(claimed: Claim, kind: PauseKind, *, wait_s: float, longest_s: float = 900.0) -> Settlement:
    """The API turned the account down; the change is not at fault and is due again."""
    turned_down = replace(settlement(claimed, due_in_s=0.0), verdicts=(), failures=claimed.failures)
    pause = Pause(
        account=claimed.account,
        kind=kind,
        reason=f"{kind}, says the API",
        wait_s=wait_s,
        longest_s=longest_s,
        started_at=clock.now(),
        told_at=clock.now(),
    )
    return replace(turned_down, pause=pause)


async def written(store: Store, *settlements: Settlement, rest_s: float = REST_S) -> Written:
    """Writes back in one batch; returns what that did."""
    return await store.settle(settlements, {one.claim.account: rest_s for one in settlements})


async def settle(store: Store, *settlements: Settlement, rest_s: float = REST_S) -> list[Settlement]:
    """Writes back in one batch; returns those whose lease was lost."""
    return list((await written(store, *settlements, rest_s=rest_s)).lost)


async def lease_over(database: Database, claimed: Claim) -> None:
    """Waits until the claim's lease has run out, or would have."""
    await eventually(
        lambda: database.value(
            "SELECT due_at < clock_timestamp() FROM caspen_sync.queue WHERE account = $1 AND appointment_id = $2",
            claimed.account,
            claimed.appointment_id,
        ),
        what="the lease runs out",
    )


async def blocked(database: Database, pid: int) -> None:
    """Waits until the connection with this server process waits for a lock that another one holds."""
    await eventually(
        lambda: database.value("SELECT cardinality(pg_blocking_pids($1)) > 0", pid),
        what="the connection waits for a lock",
    )


async def row_locked(database: Database, table: str) -> None:
    """Waits until somebody holds a lock on a row of the table."""

    async def none_free() -> bool:
        free = await database.rows(f"SELECT FROM caspen_sync.{table} FOR UPDATE SKIP LOCKED")
        rows = await database.rows(f"SELECT FROM caspen_sync.{table}")
        return len(free) < len(rows)

    await eventually(none_free, what=f"a row of {table} is locked")


async def somebody_waits(database: Database, *, count: int = 1) -> None:
    """Waits until so many statements wait for locks; unlike `row_locked` without taking one that others would skip."""
    sql = "SELECT count(*) >= $1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await eventually(lambda: database.value(sql, count), what=f"{count} statements wait for locks")


async def snapshot(database: Database, *tables: str) -> dict[str, Sequence[asyncpg.Record]]:
    """Every row of tables of the schema, to compare with later."""
    return {table: await database.rows(f"SELECT t FROM caspen_sync.{table} t ORDER BY t::text") for table in tables}
