"""What can be looked at over one connection to the database, one look after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field

import asyncpg

from worker.check import accounts, api, pauses, rights, schema, server, upkeep, woken
from worker.check.finding import Finding, failed, skipped, told_by
from worker.config import Settings
from worker.database import connection, understood
from worker.errors import CaspenSyncError, DatabaseRefused, ExitCode, SchemaMissing
from worker.sqlfiles import query

LIMIT_S = 12.0

_IS_IT_RIGHT = "is database.dsn right: host, port, user, password and database?"

Look = Callable[[asyncpg.Connection, Settings], Awaitable[list[Finding]]]

LOOKS: dict[str, Look] = {
    "database": server.database,
    "pooler": server.pooler,
    "schema": schema.schema,
    "version": schema.versions,
    "triggers": schema.triggers,
    "notify": schema.notify,
    "rights": rights.rights,
    "roles": rights.roles,
    "durability": server.durability,
    "connections": server.connections,
    "clock": server.clock,
    "snapshots": upkeep.snapshots,
    "dead_rows": upkeep.dead_rows,
    "accounts": accounts.accounts,
    "paused": pauses.paused,
    "woken": woken.woken,
}


@dataclass(slots=True)
class Seen:
    """What was found, and which accounts have a slot for a request."""

    findings: list[Finding] = field(default_factory=list)
    slots: api.Slots = field(default_factory=dict)


async def look_into(settings: Settings, *, slots_for: Collection[str]) -> Seen:
    """All of LOOKS, and then a slot for each of these accounts, in LIMIT_S at most."""
    seen = Seen(slots=dict.fromkeys(slots_for, "the database was not reached"))
    left = list(LOOKS)
    ends_at = asyncio.get_running_loop().time() + LIMIT_S
    try:
        async with _connection(settings, ends_at) as conn:
            while left and not conn.is_closed():
                name = left.pop(0)
                found = await _gently(name, conn, settings)
                seen.findings += [_no_answer(name)] if _is_over(ends_at) and conn.is_closed() else found
            for account in slots_for:
                seen.slots[account] = await api.take_slot(conn, account)
    except TimeoutError:
        seen.findings.append(_no_answer(left.pop(0)))
    except CaspenSyncError as error:
        if left == list(LOOKS):
            seen.findings.append(told_by(left.pop(0), error, _IS_IT_RIGHT))
    seen.findings += [skipped(name, "needs the database") for name in left]
    return seen


@contextlib.asynccontextmanager
async def _connection(settings: Settings, ends_at: float) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is there until `ends_at`, by the loop's time. Raises as `connection` does, and TimeoutError
    when none is to be had by then."""
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout_at(ends_at):
            conn = await stack.enter_async_context(connection(settings.database))
        # Ended, and not cancelled: a statement that is cancelled waits until the server has confirmed it, and one that
        # has gone dark never does.
        end = asyncio.get_running_loop().call_at(ends_at, conn.terminate)
        try:
            yield conn
        finally:
            end.cancel()


def _is_over(ends_at: float) -> bool:
    return asyncio.get_running_loop().time() >= ends_at


def _no_answer(name: str) -> Finding:
    return failed(name, f"no answer within {LIMIT_S:g} s", "does the network swallow it?", ExitCode.UNREACHABLE)


async def _gently(name: str, conn: asyncpg.Connection, settings: Settings) -> list[Finding]:
    """One look, in a transaction that can write nothing and hold up nobody."""
    try:
        with understood():
            async with conn.transaction():
                await conn.execute(query("check_gently"))
                return await LOOKS[name](conn, settings)
    except (SchemaMissing, DatabaseRefused) as error:
        # One thing is said once: by `schema` what is not there, by `rights` what may not be seen.
        if name in ("database", "schema"):
            return [told_by(name, error, _IS_IT_RIGHT)]
        return [skipped(name, "needs the schema" if isinstance(error, SchemaMissing) else "needs the rights")]
    except CaspenSyncError as error:
        return [told_by(name, error, "check again in a moment")]
