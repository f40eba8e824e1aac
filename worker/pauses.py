"""What a batch of settlements says of its accounts, written down in the transaction in which the batch is settled: who
is to pause, what came of a probe, and what went wrong in a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg

from worker import clock
from worker.claims import Pause, Paused, RunUpKind, Settlement, Written
from worker.config import RetrySettings
from worker.runup import Setback, in_a_row
from worker.sqlfiles import query

# In the order of pause.sql: each outranks those before it.
_KINDS = ("throttled", "down", "rejected", "refused")


def concerns_accounts(settlement: Settlement) -> bool:
    """Whether it says anything of its account that has to be written in the same transaction."""
    bad_sign = settlement.sign is not None and settlement.sign.kind in ("down", "rejected")
    return bool(settlement.pause or settlement.claim.probing or settlement.own_fault or bad_sign)


async def lock_accounts(conn: asyncpg.Connection, settlements: Sequence[Settlement]) -> None:
    """Locks the accounts of settlements until the transaction of `conn` ends. To be called before anything else is
    locked: whoever changes an account's limit locks the account before its slots too."""
    await conn.execute(query("lock_account"), sorted({s.claim.account for s in settlements}))


async def tell_accounts(conn: asyncpg.Connection, settlements: Sequence[Settlement], retry: RetrySettings) -> Written:
    """Writes down what settlements that were kept say of their accounts.

    Runs after `lock_accounts`, in its transaction. Raises what asyncpg raises.
    """
    welcomed: list[str] = []
    if probed := {s.claim.account for s in settlements if s.claim.probing}:
        await conn.execute(query("probe_over"), sorted(probed))
    if welcome := {s.claim.account: s.answer is not None for s in settlements if s.welcome}:
        rows = await conn.fetch(query("welcome"), list(welcome), list(welcome.values()))
        welcomed = [row["account"] for row in rows]
    if known := {s.claim.account: s.own_fault for s in settlements if s.own_fault}:
        await conn.execute(query("own_fault"), list(known), list(known.values()))
    heard_again = await end_run_ups(conn, settlements)
    opened, reinstate = await _tell_run_ups(conn, settlements, retry)
    paused: list[Paused] = []
    pauses = [*(s.pause for s in settlements if s.pause), *opened]
    for kind in _KINDS:
        if told := _longest_of_each(pause for pause in pauses if pause.kind == kind):
            paused += [Paused(**row) for row in await conn.fetch(query("pause"), *_pause_columns(told))]
    return Written(
        paused=tuple(paused),
        welcomed=tuple(welcomed),
        reinstate=tuple(sorted(reinstate)),
        heard_again=(*heard_again, *welcomed),
    )


async def end_run_ups(conn: asyncpg.Connection, settlements: Sequence[Settlement]) -> tuple[str, ...]:
    """The API did better: forgets what went wrong before. Returns the accounts for which it was heard again.

    Runs after `lock_accounts`, in its transaction.
    """
    over = sorted(in_a_row(settlements).over)
    if over:
        await conn.execute(query("run_up_over"), [account for account, _ in over], [kind for _, kind in over])
    return tuple(account for account, kind in over if kind == "down")


async def _tell_run_ups(
    conn: asyncpg.Connection, settlements: Sequence[Settlement], retry: RetrySettings
) -> tuple[list[Pause], set[tuple[str, RunUpKind]]]:
    """The pauses that follow, and the run-ups that are to be brought back."""
    setbacks = in_a_row(settlements).setbacks
    if not setbacks:
        return [], set()
    accounts = sorted({setback.account for setback in setbacks})
    await conn.execute(query("run_up"), *_setback_columns(setbacks))
    enough: dict[RunUpKind, int] = {"down": retry.down_after, "rejected": retry.rejected_after}
    pauses: list[Pause] = []
    reinstate: set[tuple[str, RunUpKind]] = set()
    for row in await conn.fetch(query("run_up_length"), accounts):
        account, kind = row["account"], row["kind"]
        if not row["paused"] and row["appointments"] < enough[kind]:
            continue
        reinstate.add((account, kind))
        if not row["paused"]:
            pauses.append(
                Pause(
                    account=account,
                    kind=kind,
                    reason=row["reason"],
                    wait_s=retry.probe_base_s,
                    longest_s=retry.probe_max_s,
                    started_at=min(one.started_at for one in setbacks if one.account == account),
                    told_at=clock.now(),
                )
            )
    return pauses, reinstate


def _longest_of_each(pauses: Iterable[Pause]) -> list[Pause]:
    """One pause for each account."""
    longest: dict[str, Pause] = {}
    for pause in sorted(pauses, key=lambda pause: pause.wait_s):
        longest[pause.account] = pause
    return list(longest.values())


def _pause_columns(pauses: Sequence[Pause]) -> list[list[Any]]:
    now = clock.now()
    rows = [
        (
            p.account,
            p.kind,
            p.reason,
            p.wait_s,
            now - p.told_at,
            max(p.wait_s, p.longest_s),
            now - p.started_at,
            p.token,
        )
        for p in pauses
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def _setback_columns(setbacks: Sequence[Setback]) -> list[list[Any]]:
    rows = [
        (s.account, s.kind, s.appointment_id, s.reason, "{" + ",".join(map(str, s.change_ids)) + "}", s.charged)
        for s in setbacks
    ]
    return [list(column) for column in zip(*rows, strict=True)]
