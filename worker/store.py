"""The database as the engine sees it: each method is one statement out of sql/queries/, with typed values around it.

Every method raises DatabaseUnreachable for what may pass and DatabaseRefused or SchemaMissing for what a person has to
mend.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
from pydantic_core import from_json, to_json

from worker import __version__, clock
from worker.claims import BudgetTold, Claim, PauseKind, RunUpKind, Settlement, Slot, UsedSlot, Written
from worker.config import AccountSettings, RetrySettings
from worker.contract import BODY_MAX_BYTES
from worker.database import CONNECT_TIMEOUT_S, understood
from worker.merge import Change, superseded
from worker.pauses import concerns_accounts, end_run_ups, lock_accounts, tell_accounts
from worker.sqlfiles import query

# Bounds one round trip and one process's memory; what is left is due at once.
MAX_CHANGES_PER_CLAIM = 1000
MAX_CHANGES_PER_STATEMENT = 32_768
MAX_ARRIVALS_PER_LANE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What an account waits for, in seconds from now."""

    account: str
    ready_in_s: float | None
    """Until something could be claimed; None: nothing in sight."""
    waits: bool
    """Whether the account has anything to send, now or later."""
    due: bool
    """Whether an appointment is due, and only budget or a pause is in the way."""
    paused_for_s: float | None
    """None: not paused, or until a person says so."""
    pause_kind: PauseKind | None
    pause_reason: str | None
    arrivals: bool

    def later(self, seconds: float) -> Outlook:
        """The same, so much later."""
        return replace(
            self,
            ready_in_s=None if self.ready_in_s is None else self.ready_in_s - seconds,
            paused_for_s=None if self.paused_for_s is None else self.paused_for_s - seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOver:
    """What would be left behind now."""

    due: bool
    waiting: bool
    leased_for_s: float | None


class Store:
    """Runs the statements over a pool. Holds no connection and no transaction between calls."""

    def __init__(self, pool: asyncpg.Pool, *, worker: str, retry: RetrySettings | None = None) -> None:
        """`retry`: when to take failures for an outage, and how long to wait between probes."""
        self._pool = pool
        self._worker = worker
        self._retry = retry or RetrySettings()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the pool. The limit is for giving it back, too: asyncpg would wait on for one gone dark."""
        with understood():
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as conn:
                try:
                    yield conn
                except asyncio.CancelledError:
                    # Giving it back would wait for a server that may have gone dark, and end in another error.
                    with contextlib.suppress(asyncpg.InterfaceError):  # it may have been ended already
                        conn.terminate()
                    raise

    async def register(self, accounts: Mapping[str, AccountSettings], *, timeout_s: float = 30.0) -> None:
        """Writes down the limits of the accounts and fits their slots. `timeout_s`: how long a request may take."""
        async with self._connection() as conn:
            for name, account in sorted(accounts.items()):
                async with conn.transaction():
                    slots = await conn.fetchval(
                        query("register_account"),
                        name,
                        account.rate_limit,
                        account.rate_window_s,
                        account.rate_guard_s,
                        account.live_reserve,
                    )
                    await _fit_slots(conn, name, slots, timeout_s)

    async def registered(self, accounts: Mapping[str, AccountSettings]) -> set[str]:
        """Those of the accounts for which nothing has to be written down."""
        limits = [(name, a.rate_limit, a.rate_window_s, a.rate_guard_s, a.live_reserve) for name, a in accounts.items()]
        async with self._connection() as conn:
            return {row["account"] for row in await conn.fetch(query("registered"), *_transposed(limits, 5))}

    async def take_in(self, accounts: Sequence[str]) -> dict[str, int]:
        """Takes committed changes into the queue; at most MAX_ARRIVALS_PER_LANE of each lane of each account. Returns
        how many, for the accounts where there were any."""
        async with self._connection() as conn:
            rows = await conn.fetch(query("take_in"), accounts, MAX_ARRIVALS_PER_LANE)
        return {row["account"]: row["taken"] for row in rows}

    async def claim(
        self, capacities: Mapping[str, int], *, timeout_s: float, lease_s: float, max_changes: int
    ) -> list[Claim]:
        """Claims at most `capacities[account]` appointments of each account, each with a slot and its changes."""
        asked_at = clock.now()
        # Rows of accounts are locked in this order: not in that of the configuration, which may differ between hosts.
        accounts = sorted(capacities)
        async with self._connection() as conn:
            rows = await conn.fetch(
                query("claim"),
                accounts,
                [capacities[account] for account in accounts],
                self._worker,
                timeout_s,
                lease_s,
                min(max_changes, MAX_CHANGES_PER_CLAIM),
                BODY_MAX_BYTES,
                MAX_CHANGES_PER_STATEMENT,
            )
        return [_claim(row, asked_at) for row in rows]

    async def claim_arrival(
        self, account: str, *, timeout_s: float, lease_s: float, max_changes: int
    ) -> tuple[Claim, bool] | None:
        """Takes in the live change of the account that arrived first and claims its appointment, and tells whether more
        have arrived. None where anything is in the way: then nothing was done."""
        asked_at = clock.now()
        async with self._connection() as conn:
            row = await conn.fetchrow(
                query("claim_arrival"),
                account,
                self._worker,
                timeout_s,
                lease_s,
                min(max_changes, MAX_CHANGES_PER_CLAIM),
                BODY_MAX_BYTES,
            )
        return None if row is None else (_claim(row, asked_at), row["more"])

    async def take_slot(self, claim: Claim, *, timeout_s: float) -> Slot | None:
        """One more slot for a claim that is held; None when there is none, or the account is paused."""
        asked_at = clock.now()
        async with self._connection() as conn:
            row = await conn.fetchrow(query("take_slot"), claim.account, claim.lane, timeout_s)
        if row is None:
            return None
        return Slot(account=claim.account, number=row["slot"], free_at=row["free_at"], taken_at=asked_at)

    async def settle(self, settlements: Sequence[Settlement], rest_s: Mapping[str, float]) -> Written:
        """Writes back a batch in one transaction. `rest_s`: how long a slot of each account cools after its answer.

        Raises asyncpg.DataError when Postgres cannot hold an answer; then nothing of the batch was written.
        """
        columns = [*_columns(settlements), self._worker, *_slot_columns(settlements, rest_s)]
        async with self._connection() as conn:
            if not any(map(concerns_accounts, settlements)):
                rows = await conn.fetch(query("settle"), *columns)
                heard_again: tuple[str, ...] = ()
                if any(row["run_up"] for row in rows):
                    async with conn.transaction():
                        await lock_accounts(conn, settlements)
                        heard_again = await end_run_ups(conn, _kept(settlements, rows))
                return Written(lost=_lost(settlements, rows), due=_due(settlements, rows), heard_again=heard_again)
            # In one transaction, so that nobody claims what this releases into an account that it pauses.
            async with conn.transaction():
                await lock_accounts(conn, settlements)
                rows = await conn.fetch(query("settle"), *columns)
                written = await tell_accounts(conn, _kept(settlements, rows), self._retry)
            return replace(written, lost=_lost(settlements, rows), due=_due(settlements, rows))

    async def reinstate(self, account: str, kind: RunUpKind) -> tuple[int, int]:
        """An account is paused for what went wrong in a row: gives the changes back what that charged them, and makes
        pending again what it parked. Returns how many changes, and how many of them were parked."""
        async with self._connection() as conn:
            row = await conn.fetchrow(query("reinstate"), account, kind)
        return row["changes"], row["parked"]

    async def given_up(self, account: str) -> int:
        """The API was heard of again: makes pending again what was given up while it was not. Returns how many."""
        async with self._connection() as conn:
            return int(await conn.fetchval(query("given_up"), account))

    async def fresh_tokens(self, fingerprints: Mapping[str, str]) -> list[str]:
        """Brings the probes of refused accounts forward if these are not the tokens refused; returns those."""
        async with self._connection() as conn:
            rows = await conn.fetch(query("fresh_tokens"), *_transposed(sorted(fingerprints.items()), 2))
        return [row["account"] for row in rows]

    async def tell_limit(self, account: str, limit: int, *, timeout_s: float) -> None:
        """Writes down how many requests the API says it grants; the lower of that and the configured limit rules."""
        async with self._connection() as conn, conn.transaction():
            slots = await conn.fetchval(query("tell_limit"), account, limit)
            if slots is not None:
                await _fit_slots(conn, account, slots, timeout_s)

    async def hold_back(self, told: Sequence[BudgetTold]) -> dict[str, int]:
        """Holds back the slots that somebody else uses, by what the API says that remains; each account once. Returns
        how many more than before, for the accounts where there are any."""
        async with self._connection() as conn:
            now = clock.now()  # once a connection is free: the ages must not grow on the way
            rows = [(t.account, t.remaining, now - t.started_at) for t in told]
            held = await conn.fetch(query("hold_back"), *_transposed(rows, 3))
        return {row["account"]: row["slots"] for row in held}

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
    account = row["account"]
    newest = from_json(row["set_by"]) if row["set_by"] else {}
    columns = [row[name] or () for name in _CHANGE_COLUMNS]
    return Claim(
        account=account,
        appointment_id=row["appointment_id"],
        token=row["token"],
        lane=row["lane"],
        failures=row["failures"],
        part_size=row["part_size"],
        probing=row["probing"],
        pause_reason=row["pause_reason"],
        suspect=row["suspect"],
        changes=tuple([_change(newest, *values) for values in zip(*columns, strict=True)]),
        newest_id=row["newest_id"],
        unsure_ids=tuple(row["unsure_ids"] or ()),
        slot=Slot(account=account, number=row["slot"], free_at=row["slot_free_at"], taken_at=asked_at),
    )


_CHANGE_COLUMNS = ("ids", "changes", "attempts", "ages_s", "traceparents")


def _change(
    newest: Mapping[str, int], change_id: int, text: str | None, attempts: int, age_s: float, traceparent: str | None
) -> Change:
    changes = _body(text)
    return Change(
        id=change_id,
        changes=changes,
        attempts=attempts,
        superseded=superseded(changes, change_id, newest),
        age_s=age_s,
        traceparent=traceparent,
    )


def _body(text: str | None) -> Any:
    """The change's JSON; None when no reader should have to bear it: too large, too deep, a number of 5,000 digits."""
    if text is None:
        return None
    try:
        return from_json(text)
    except ValueError:
        return None


async def _fit_slots(conn: asyncpg.Connection, account: str, slots: int, timeout_s: float) -> None:
    await conn.execute(query("lock_slots"), account)
    await conn.execute(query("fit_slots"), account, slots, timeout_s)


def _kept(settlements: Sequence[Settlement], rows: Sequence[Mapping[str, Any]]) -> list[Settlement]:
    """The settlements whose number came back."""
    kept = {row["nth"] for row in rows}
    return [settlement for nth, settlement in enumerate(settlements, start=1) if nth in kept]


def _lost(settlements: Sequence[Settlement], rows: Sequence[Mapping[str, Any]]) -> tuple[Settlement, ...]:
    """The settlements whose number did not come back."""
    kept = {row["nth"] for row in rows}
    return tuple(settlement for nth, settlement in enumerate(settlements, start=1) if nth not in kept)


def _due(settlements: Sequence[Settlement], rows: Sequence[Mapping[str, Any]]) -> tuple[Settlement, ...]:
    """The settlements whose appointment is due again at once."""
    return tuple(settlements[row["nth"] - 1] for row in rows if row["due"])


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
            (
                claim.account,
                claim.appointment_id,
                claim.token,
                s.upto_id,
                s.due_in_s,
                s.failures,
                s.part_size,
                s.turned_away,
                _array(s.unsure_ids) if s.unsure_ids else None,
            )
        )
        changes += [(nth, v.change_id, v.state, v.charged, v.error, v.messages) for v in s.verdicts]
        if s.answer:
            set_by = to_json(s.answer.set_by).decode()
            answers.append((nth, s.answer.fields, s.answer.resource, s.answer.last_change_id, set_by))
        attempts += [
            (
                claim.account,
                claim.appointment_id,
                _array(a.change_ids),
                now - a.started_at,
                a.duration_s * 1000,
                a.http_status,
                a.outcome,
                a.error,
            )
            for a in s.attempts
        ]
    return [*_transposed(claims, 9), *_transposed(changes, 6), *_transposed(answers, 5), *_transposed(attempts, 8)]


def _array(ids: Sequence[int]) -> str:
    return "{" + ",".join(map(str, ids)) + "}"


def _slot_columns(settlements: Sequence[Settlement], rest_s: Mapping[str, float]) -> list[list[Any]]:
    """The arrays of settle.sql for the slots. A slot cools from the answer on, not from this write on."""
    now = clock.now()
    rows = [
        (
            used.slot.account,
            used.slot.number,
            used.slot.free_at,
            0.0 if used.answered_at is None else _rest_s(used, rest_s) - (now - used.answered_at),
            used.throttled,
        )
        for settlement in settlements
        for used in settlement.slots
    ]
    return _transposed(rows, 5)


def _rest_s(used: UsedSlot, rest_s: Mapping[str, float]) -> float:
    """As hold_back.sql, after a 429."""
    return rest_s[used.slot.account] * (1.5 if used.throttled else 1.0)


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """By columns. One of nothing but nulls is left empty, which unnest fills up with nulls again."""
    if not rows:
        return [[] for _ in range(width)]
    return [[] if column.count(None) == len(column) else list(column) for column in zip(*rows, strict=True)]
