"""The database as the engine sees it: each method is one statement out of sql/queries/, with typed values around it.

Every method raises DatabaseUnreachable for what may pass and DatabaseRefused or SchemaMissing for what a person has to
mend.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from worker import __version__, clock
from worker.claims import Claim, Pause, PauseKind, Settlement, Slot
from worker.config import AccountSettings
from worker.contract import BODY_MAX_BYTES
from worker.database import CONNECT_TIMEOUT_S, understood
from worker.merge import Change
from worker.sqlfiles import query

# Bounds one round trip and one process's memory; what is left is due at once.
MAX_CHANGES_PER_CLAIM = 1000
MAX_ARRIVALS_PER_LANE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What an account waits for, in seconds from now."""

    account: str
    ready_in_s: float | None
    """Until something could be claimed; None: nothing in sight."""
    due: bool
    """Whether an appointment is due, and only budget or a pause is in the way."""
    paused_for_s: float | None
    pause_kind: PauseKind | None
    arrivals: bool

    @property
    def something_waits(self) -> bool:
        """Whether the account has anything to send, now or later."""
        return self.arrivals or self.ready_in_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOver:
    """What would be left behind now."""

    due: bool
    waiting: bool
    leased_for_s: float | None


class Store:
    """Runs the statements over a pool. Holds no connection and no transaction between calls."""

    def __init__(self, pool: asyncpg.Pool, *, worker: str) -> None:
        self._pool = pool
        self._worker = worker

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the pool. The limit is for giving it back, too: asyncpg would wait on for one gone dark."""
        with understood():
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as conn:
                yield conn

    async def register(self, accounts: Mapping[str, AccountSettings], *, timeout_s: float = 30.0) -> None:
        """Writes down the limits of the accounts and fits their slots. `timeout_s`: how long a request may take."""
        async with self._connection() as conn:
            for name, account in sorted(accounts.items()):
                async with conn.transaction():
                    await conn.execute(
                        query("register_account"),
                        name,
                        account.rate_limit,
                        account.rate_window_s,
                        account.rate_guard_s,
                        account.live_reserve,
                    )
                    await conn.execute(query("lock_slots"), name)
                    await conn.execute(query("fit_slots"), name, account.rate_limit, timeout_s)

    async def take_in(self, accounts: Sequence[str]) -> int:
        """Takes committed changes into the queue; at most MAX_ARRIVALS_PER_LANE of each lane. Returns how many."""
        async with self._connection() as conn:
            taken = await conn.fetchval(query("take_in"), accounts, MAX_ARRIVALS_PER_LANE)
        return int(taken)

    async def claim(
        self, capacities: Mapping[str, int], *, timeout_s: float, lease_s: float, max_changes: int
    ) -> list[Claim]:
        """Claims at most `capacities[account]` appointments of each account, each with a slot and its changes."""
        asked_at = clock.now()
        async with self._connection() as conn:
            rows = await conn.fetch(
                query("claim"),
                list(capacities),
                list(capacities.values()),
                self._worker,
                timeout_s,
                lease_s,
                min(max_changes, MAX_CHANGES_PER_CLAIM),
                BODY_MAX_BYTES,
            )
        return [_claim(row, asked_at) for row in rows]

    async def take_slot(self, claim: Claim, *, timeout_s: float) -> Slot | None:
        """One more slot for a claim that is held; None when there is none, or the account is paused."""
        asked_at = clock.now()
        async with self._connection() as conn:
            row = await conn.fetchrow(query("take_slot"), claim.account, claim.lane, timeout_s)
        if row is None:
            return None
        return Slot(account=claim.account, number=row["slot"], free_at=row["free_at"], taken_at=asked_at)

    async def settle(self, settlements: Sequence[Settlement], rest_s: Mapping[str, float]) -> list[Settlement]:
        """Writes back a batch in one transaction. `rest_s`: how long a slot of each account cools after its answer.

        Returns the settlements whose lease was lost. Raises asyncpg.DataError when Postgres cannot hold an answer; then
        nothing of the batch was written.
        """
        columns = [*_columns(settlements), self._worker, *_slot_columns(settlements, rest_s)]
        async with self._connection() as conn:
            if not any(s.pause or s.claim.probe for s in settlements):
                return _missing(settlements, await conn.fetch(query("settle"), *columns))
            # In one transaction, so that nobody claims what this releases into an account that it pauses.
            async with conn.transaction():
                lost = _missing(settlements, await conn.fetch(query("settle"), *columns))
                lost_claims = {id(settlement) for settlement in lost}
                kept = [settlement for settlement in settlements if id(settlement) not in lost_claims]
                await self._tell_accounts(conn, kept)
            return lost

    async def _tell_accounts(self, conn: asyncpg.Connection, settlements: Sequence[Settlement]) -> None:
        """What settlements say of their accounts: that they are to pause, or what came of a probe."""
        if welcome := sorted({s.claim.account for s in settlements if s.welcome}):
            await conn.execute(query("welcome"), welcome)
        if unused := sorted({s.claim.account for s in settlements if s.claim.probe and not s.attempts}):
            await conn.execute(query("unused_probe"), unused)
        pauses = [s.pause for s in settlements if s.pause]
        for kind in ("throttled", "refused"):
            if told := _longest_of_each([pause for pause in pauses if pause.kind == kind]):
                await conn.execute(query("pause"), *_pause_columns(told))

    async def outlook(self, accounts: Sequence[str]) -> list[Outlook]:
        """When it is worth asking for a claim again, for each account."""
        async with self._connection() as conn:
            return [Outlook(**row) for row in await conn.fetch(query("outlook"), accounts)]

    async def left_over(self, accounts: Sequence[str], *, lease_s: float) -> LeftOver:
        """What a run that found nothing due would leave behind."""
        async with self._connection() as conn:
            row = await conn.fetchrow(query("left_over"), accounts, lease_s)
        return LeftOver(**row)

    async def heartbeat(self, accounts: Sequence[str], *, running_s: float) -> None:
        """Says that this process is alive."""
        async with self._connection() as conn:
            await conn.execute(query("heartbeat"), accounts, self._worker, __version__, running_s)

    async def farewell(self, accounts: Sequence[str]) -> None:
        """Takes this process off the list of the living."""
        async with self._connection() as conn:
            await conn.execute(query("farewell"), accounts, self._worker)


def _claim(row: Mapping[str, Any], asked_at: float) -> Claim:
    changes = tuple(
        Change(id=change_id, changes=_body(text), attempts=attempts)
        for change_id, text, attempts in zip(row["ids"] or (), row["changes"] or (), row["attempts"] or (), strict=True)
    )
    return Claim(
        account=row["account"],
        appointment_id=row["appointment_id"],
        token=row["token"],
        lane=row["lane"],
        failures=row["failures"],
        part_size=row["part_size"],
        probe=row["probe"],
        changes=changes,
        newest_id=row["newest_id"],
        slot=Slot(account=row["account"], number=row["slot"], free_at=row["slot_free_at"], taken_at=asked_at),
    )


def _body(text: str | None) -> Any:
    """The change's JSON; None when no reader should have to bear it: too large, too deep, a number of 5,000 digits."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _missing(settlements: Sequence[Settlement], rows: Sequence[Mapping[str, Any]]) -> list[Settlement]:
    """The settlements whose number did not come back."""
    kept = {row["nth"] for row in rows}
    return [settlement for nth, settlement in enumerate(settlements, start=1) if nth not in kept]


def _longest_of_each(pauses: Sequence[Pause]) -> list[Pause]:
    """One pause for each account."""
    longest: dict[str, Pause] = {}
    for pause in sorted(pauses, key=lambda pause: pause.wait_s):
        longest[pause.account] = pause
    return list(longest.values())


def _pause_columns(pauses: Sequence[Pause]) -> list[list[Any]]:
    now = clock.now()
    rows = [(p.account, p.kind, p.reason, p.wait_s, now - p.told_at, p.longest_s, now - p.started_at) for p in pauses]
    return [list(column) for column in zip(*rows, strict=True)]


def _columns(settlements: Sequence[Settlement]) -> list[list[Any]]:
    """The arrays of settle.sql up to the attempts, in its order."""
    now = clock.now()
    claims: list[tuple[Any, ...]] = []
    changes: list[tuple[Any, ...]] = []
    answers: list[tuple[Any, ...]] = []
    attempts: list[tuple[Any, ...]] = []
    for nth, s in enumerate(settlements, start=1):
        claim = s.claim
        claims.append(
            (claim.account, claim.appointment_id, claim.token, s.upto_id, s.due_in_s, s.failures, s.part_size)
        )
        changes += [(nth, v.change_id, v.state, v.charged, v.error) for v in s.verdicts]
        if s.answer:
            answers.append((nth, s.answer.fields, s.answer.resource, s.answer.last_change_id))
        attempts += [
            (
                claim.account,
                claim.appointment_id,
                "{" + ",".join(map(str, a.change_ids)) + "}",
                now - a.started_at,
                a.duration_s * 1000,
                a.http_status,
                a.outcome,
                a.error,
            )
            for a in s.attempts
        ]
    return [*_transposed(claims, 7), *_transposed(changes, 5), *_transposed(answers, 4), *_transposed(attempts, 8)]


def _slot_columns(settlements: Sequence[Settlement], rest_s: Mapping[str, float]) -> list[list[Any]]:
    """The arrays of settle.sql for the slots. A slot cools from the answer on, not from this write on."""
    now = clock.now()
    rows = [
        (
            used.slot.account,
            used.slot.number,
            used.slot.free_at,
            0.0 if used.answered_at is None else rest_s[used.slot.account] - (now - used.answered_at),
        )
        for settlement in settlements
        for used in settlement.slots
    ]
    return _transposed(rows, 4)


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
