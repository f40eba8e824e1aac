"""Accounts that have changes and no worker: what nobody would send, and nobody say so."""

from __future__ import annotations

import asyncpg

from worker.check.finding import Finding, ok, warning
from worker.config import Settings
from worker.sqlfiles import query
from worker.status import ALIVE_S


async def accounts(conn: asyncpg.Connection, settings: Settings) -> list[Finding]:
    """That each account with something to send is configured, here or where a worker runs."""
    rows = await conn.fetch(query("check_accounts"), ALIVE_S)
    orphans = [row["account"] for row in rows if row["account"] not in settings.accounts and not row["served"]]
    if orphans:
        return [
            warning(
                "accounts",
                f"changes wait for {', '.join(orphans)}, which no configuration names, or whose worker is not running",
                f"add [accounts.{orphans[0]}] and its token, or find the writer that misspells it",
            )
        ]
    return [ok("accounts", f"{', '.join(sorted(settings.accounts))}; no other has changes that wait for a worker")]
