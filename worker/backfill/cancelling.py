"""Cancelling: what is still pending of a backfill is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from worker import clock
from worker.backfill.staging import drop_lines
from worker.database import understood
from worker.sqlfiles import query

# Pending changes that one step looks at.
STEP = 250
# How often it is looked whether what is on the wire has been answered, in seconds; less often where a look takes long.
LOOK_S = 0.25
LOOK_AT_LAST_S = 10.0
LOOKS_APART_TIMES = 9


@dataclass(slots=True, kw_only=True)
class Cancelled:
    """What a cancelling did."""

    discarded: int = 0
    on_the_wire: int = 0
    """Changes whose answer is waited for."""
    not_loaded: int = 0
    """Lines that will never be loaded."""


async def cancel(pool: asyncpg.Pool, name: str, *, who: str, look_on: Callable[[Cancelled], None]) -> Cancelled:
    """Stops whoever loads the backfill, and discards what is pending of it in every account.

    What is on the wire is waited for, which takes a lease's length at most; what comes of it decides. `look_on` is
    shown how far it is. Safe to run again after a kill. Raises DatabaseUnreachable and the like.
    """
    done = Cancelled()
    with understood():
        accounts = await pool.fetch(query("backfill_cancel"), name, who)
    done.not_loaded = sum(row["unloaded"] for row in accounts)
    for row in accounts:
        await drop_lines(pool, row["account"], name, row["token"], behind=row["loaded_nth"])
    for row in accounts:
        began = clock.now()
        while await _walk(pool, row["account"], name, done, look_on):
            await asyncio.sleep(min(LOOK_AT_LAST_S, max(LOOK_S, LOOKS_APART_TIMES * (clock.now() - began))))
            began = clock.now()
    return done


async def _walk(
    pool: asyncpg.Pool, account: str, name: str, done: Cancelled, look_on: Callable[[Cancelled], None]
) -> bool:
    """Discards what it may. Whether something was on the wire."""
    appointment: str | None = ""
    change_id = 0
    done.on_the_wire = 0
    while appointment is not None:
        with understood():
            async with pool.acquire() as conn, conn.transaction():
                await conn.execute(query("backfill_gently"), "0", "0")
                row = await conn.fetchrow(query("backfill_discard"), account, name, appointment, change_id, STEP)
        done.discarded += row["discarded"]
        done.on_the_wire += row["on_the_wire"]
        appointment, change_id = row["after_appointment"], row["after_id"]
        look_on(done)
    return done.on_the_wire > 0
