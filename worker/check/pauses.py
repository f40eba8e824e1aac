"""Accounts that are paused: nothing is sent for them, whatever else is well."""

from __future__ import annotations

import shlex

import asyncpg

from worker.check.finding import Finding, failed, ok, warning
from worker.config import Settings
from worker.errors import ExitCode
from worker.sqlfiles import query

NAME = "paused"

_MENDS = {
    "refused": (
        "replace the token where `token` says that it is; under systemd then systemctl restart caspen-sync, else a "
        "worker reads it again by itself"
    ),
    "down": "nothing, if it is the API's fault: the worker asks again by itself; else see `api`",
    "rejected": "is api.base_url right, its path included? The worker asks again by itself",
}
_CODES = {"refused": ExitCode.REFUSED, "down": ExitCode.UNREACHABLE, "rejected": ExitCode.CONFIG}


async def paused(conn: asyncpg.Connection, settings: Settings) -> list[Finding]:
    """A finding for each configured account that is paused, or one that none is. One that was throttled goes on by
    itself, within a window as a rule."""
    rows = await conn.fetch(query("check_pause"), list(settings.accounts))
    found = [pause_finding(row["account"], row["kind"], row["reason"]) for row in rows if row["kind"] is not None]
    return found or [ok(NAME, "no account")]


def pause_finding(account: str, kind: str, reason: str | None) -> Finding:
    """What is to be said of an account with such a pause."""
    said = f"account {account}, {kind}: {reason or 'no reason was given'}"
    match kind:
        case "throttled":
            return ok(NAME, f"{said}; it goes on by itself")
        case "manual":
            said = f"account {account}, by hand: {reason or 'no reason was given'}"
            return warning(NAME, said, f"caspen-sync resume {shlex.quote(account)}")
        case _:
            return failed(NAME, f"{said}; nothing is sent meanwhile", _MENDS[kind], _CODES[kind])
