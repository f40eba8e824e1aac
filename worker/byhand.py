"""What a person does to an account: stop it, and let it go on. Each is written down with who and why."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass

import asyncpg

from worker.claims import PauseKind
from worker.config import Settings
from worker.database import understood
from worker.errors import UsageError
from worker.sqlfiles import query
from worker.store import Store

# The row of a backfill, some of whose changes a retry or a discard may give up, is held while that is accepted.
LOCK_WAIT = "1s"


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who does something, and why."""

    who: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The pause that was ended; None: there was none."""

    kind: PauseKind | None
    reason: str | None


def whoami() -> str:
    """user@host, and not root where somebody became root by sudo."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


async def wait_briefly(conn: asyncpg.Connection) -> None:
    """For the rest of the transaction, whoever meets a lock gives up soon: a person waits, and on the status page all
    others do behind them."""
    await conn.execute(query("wait_briefly"), LOCK_WAIT)


async def pause(pool: asyncpg.Pool | asyncpg.Connection, settings: Settings, account: str, by: By) -> None:
    """Stops an account in every process, until `resume`. Requests on the wire finish. For an account that is configured
    and that the database does not know yet it takes a pool.

    Raises UsageError for an account that is neither configured nor known to the database.
    """
    with understood():
        if await pool.fetchval(query("pause_by_hand"), account, by.who, by.reason):
            return
    if account not in settings.accounts:
        raise await _no_such_account(pool, settings, account)
    await Store(pool, worker=by.who).register({account: settings.accounts[account]}, timeout_s=settings.api.timeout_s)
    with understood():
        await pool.fetchval(query("pause_by_hand"), account, by.who, by.reason)


async def resume(pool: asyncpg.Pool | asyncpg.Connection, settings: Settings, account: str, by: By) -> Resumed:
    """Ends whatever pause an account is in, and wakes the workers. Raises UsageError as `pause` does."""
    with understood():
        row = await pool.fetchrow(query("resume"), account, by.who, by.reason)
        if row is not None:
            await pool.execute(query("wake"), account)
            return Resumed(kind=row["kind"], reason=row["reason"])
    if account not in settings.accounts:
        raise await _no_such_account(pool, settings, account)
    return Resumed(kind=None, reason=None)


async def _no_such_account(pool: asyncpg.Pool | asyncpg.Connection, settings: Settings, account: str) -> UsageError:
    with understood():
        known = {row["account"] for row in await pool.fetch(query("known_accounts"))}
    return UsageError(
        f"there is no account {account}; the accounts are {', '.join(sorted(known | set(settings.accounts)))}"
    )
