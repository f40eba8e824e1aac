"""How it could be, without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from worker.status import AccountStatus, Status, Stranger, WorkerStatus

NOW = datetime(2026, 11, 24, 8, 30, tzinfo=UTC)

_IDLE = AccountStatus(
    account="default",
    live=0,
    backfill=0,
    oldest_s=None,
    arrived=0,
    parked=0,
    in_flight=0,
    waiting=0,
    next_due_s=None,
    due=0,
    due_backfill=0,
    budget_limit=60,
    budget_configured=60,
    budget_free=60,
    held_back=0,
    budget_used=0,
    budget_reserve=6,
    window_s=60.0,
    guard_s=0.5,
    served=True,
    pause_kind=None,
    pause_reason=None,
    paused_for_s=None,
    paused_at=None,
    done_in_s=None,
)


def account(name: str = "default", **figures: Any) -> AccountStatus:
    """An account for which nothing waits, but for these figures."""
    return replace(_IDLE, account=name, **figures)


def a_worker(*accounts: str, version: str = "1.0") -> WorkerStatus:
    """A process that works for these accounts."""
    return WorkerStatus(worker="host:1:x", version=version, started_at=NOW, seen_at=NOW, accounts=accounts)


def found(*accounts: AccountStatus, strangers: tuple[Stranger, ...] = (), workers: bool = True) -> Status:
    """These accounts, and a worker for those that are served."""
    served = [one.account for one in accounts if one.served]
    return Status(accounts=accounts, unregistered=strangers, workers=(a_worker(*served),) if workers else ())
