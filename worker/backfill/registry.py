"""Which backfills there are, and how far they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import asyncpg

from worker.database import understood
from worker.sqlfiles import query

# Lines of one page.
PAGE = 1000

State = Literal["loading", "working", "done", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """One backfill in one account. Counts are of lines, each of which is one change."""

    account: str
    name: str
    started_at: datetime
    started_by: str
    lines: int
    """Accepted."""
    loaded: int
    """Of those, in the outbox."""
    outdated: int
    """Of those, with nothing to send, since newer changes had set all of it."""
    left_out: int
    """Without some of their fields, or all, for that reason."""
    discarded: int
    """Given up by a person."""
    pending: int
    parked: int
    loaded_at: datetime | None
    """When the last of them was in the outbox."""
    unloaded: bool
    """Whether some are not in the outbox, or nothing was accepted yet."""
    cancelled_at: datetime | None
    cancelled_by: str | None
    forgotten_at: datetime | None

    @property
    def synced(self) -> int:
        """What the API has, or what newer changes have made superfluous since."""
        return max(0, self.loaded - self.outdated - self.discarded - self.pending - self.parked)

    @property
    def given_up(self) -> int:
        """Changes that a person discarded, and lines that were not loaded when it was cancelled."""
        return self.discarded + (self.lines - self.loaded if self.cancelled_at else 0)

    @property
    def state(self) -> State:
        """loading: not all of it is in the outbox; working: something is pending."""
        if self.cancelled_at:
            return "cancelled"
        if self.unloaded:
            return "loading"
        return "working" if self.pending else "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What was left out of one line."""

    account: str
    line: int
    appointment_id: str
    change_id: int
    fields: tuple[str, ...]
    newer: tuple[int, ...]
    """The changes that had set them, in the same order."""


async def backfills(pool: asyncpg.Pool, name: str | None = None) -> list[Backfill]:
    """Those of that name, or all: one for each account and name, the newest first. Counts the pending changes of their
    accounts: one to two seconds for a million."""
    with understood():
        return [Backfill(**row) for row in await pool.fetch(query("backfills"), name)]


async def waiting(pool: asyncpg.Pool, name: str) -> dict[str, int]:
    """How many appointments it has pending changes of, in each account that has any. Reads as much as `backfills`."""
    with understood():
        return {row["account"]: row["appointments"] for row in await pool.fetch(query("backfill_waiting"), name)}


async def left_out(pool: asyncpg.Pool, account: str, name: str) -> AsyncIterator[LeftOut]:
    """What was left out of a backfill's lines, in their order."""
    behind: int | None = 0
    while behind is not None:
        with understood():
            rows = await pool.fetch(query("backfill_left_out_list"), account, name, behind, PAGE)
        for row in rows:
            yield LeftOut(
                account=row["account"],
                line=row["line"],
                appointment_id=row["appointment_id"],
                change_id=row["change_id"],
                fields=tuple(row["fields"]),
                newer=tuple(row["newer"]),
            )
        behind = rows[-1]["nth"] if len(rows) == PAGE else None
