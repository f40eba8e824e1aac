"""Accounts that have changes and no worker: what nobody would send, and nobody say so."""

from __future__ import annotations

import asyncpg

from worker.check.finding import Finding, ok, toml_key, warning
from worker.config import Settings
from worker.sqlfiles import query
from worker.status import ALIVE_S


async def accounts(conn: asyncpg.Connection, settings: Settings) -> list[Finding]:
    """That each account with something to send is configured, here or where a worker runs; and that, where workers run,
    one of them knows of it. Where none runs, `run --once` may come by and by."""
    rows = await conn.fetch(query("check_accounts"), ALIVE_S)
    unserved = [row["account"] for row in rows if not row["served"]]
    orphans = [account for account in unserved if account not in settings.accounts]
    unheard = [account for account in unserved if account in settings.accounts]
    found: list[Finding] = []
    if orphans:
        found.append(
            warning(
                "accounts",
                f"changes wait for {', '.join(orphans)}, which no configuration names, or whose worker is not running",
                f"add [accounts.{toml_key(orphans[0])}] and its token, or find the writer that misspells it",
            )
        )
    if unheard and await conn.fetch(query("workers"), ALIVE_S):
        found.append(
            warning(
                "accounts",
                f"changes wait for {', '.join(unheard)}, and of the workers that run none works for it",
                f"restart the service: it does not know account {unheard[0]} yet",
            )
        )
    return found or [
        ok("accounts", f"{', '.join(sorted(settings.accounts))}; no other has changes that wait for a worker")
    ]
