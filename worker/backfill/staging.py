"""Staging: the lines of a source are copied into the database, and accepted all at once or not at all.

Each process that loads a backfill takes it over by a token of its own, which is greater the later it began. Every later
step asks for that token, so of two processes only the one that came last goes on.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from worker.backfill.rows import Row
from worker.database import understood
from worker.errors import BackfillRefused, BackfillTakenOver
from worker.sqlfiles import query

# Lines that are deleted in one step.
DROP_STEP = 10_000
# To compare what was read with what is there already, in seconds: of each there may be ten million lines.
COMPARE_TIMEOUT_S = 3600.0

_COLUMNS = ("account", "name", "nth", "line", "appointment_id", "changes", "as_of", "digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What became of the lines that were read."""

    new: int
    known: int
    """Those that were accepted before."""
    unloaded: int
    """Those that are to be loaded, from earlier runs too."""


@dataclass(slots=True, kw_only=True)
class _Account:
    """How far one account's lines are."""

    accepted_nth: int
    staged_nth: int
    staged: int = 0


class Staging:
    """One reading of a source into the database, under one name."""

    def __init__(self, pool: asyncpg.Pool, *, name: str, token: UUID, who: str, as_of: datetime) -> None:
        self.name = name
        self.token = token
        self.as_of = as_of
        """How old the data is."""
        self._pool = pool
        self._who = who
        self._accounts: dict[str, _Account] = {}

    @classmethod
    async def begin(
        cls, pool: asyncpg.Pool, *, name: str, accounts: Sequence[str], who: str, as_of: datetime | None
    ) -> Staging:
        """Takes the backfill over in these accounts, from whoever loads it, and clears away what was read before and
        never accepted. `as_of` None: now, by the database's clock.

        Raises BackfillRefused when it was cancelled, or when its lines are no longer known.
        """
        with understood():
            now = datetime.fromtimestamp(await pool.fetchval(query("check_clock")), UTC)
            token = _token(now)
            rows = await pool.fetch(query("backfill_begin"), sorted(accounts), name, token)
        for row in rows:
            _refuse(name, row)
        staging = cls(pool, name=name, token=token, who=who, as_of=as_of or now)
        for row in rows:
            await staging._open(row["account"])
        return staging

    @property
    def accounts(self) -> Sequence[str]:
        """Those that it has lines of, now or from an earlier run."""
        return sorted(self._accounts)

    async def stage(self, rows: Sequence[Row]) -> None:
        """Copies lines behind those that it has. Raises BackfillTakenOver when another process has, and BackfillRefused
        as `begin` does."""
        for account in sorted({row.account for row in rows} - self._accounts.keys()):
            await self._open(account)
        if not rows:
            return
        records = [
            (row.account, self.name, self._next_nth(row.account), row.line, row.appointment_id, row.changes, self.as_of,
             row.digest)
            for row in rows
        ]  # fmt: skip
        with understood():
            async with self._pool.acquire() as conn, conn.transaction():
                await self._hold(conn, sorted({row.account for row in rows}))
                await conn.copy_records_to_table(
                    "backfill_line", schema_name="caspen_sync", columns=_COLUMNS, records=records
                )

    async def accept(self) -> Accepted:
        """Accepts what was staged, but for what is known: from now on it will be loaded. All accounts at once."""
        new = known = unloaded = 0
        with understood():
            async with self._pool.acquire() as conn, conn.transaction():
                await self._hold(conn, self.accounts)
                for name, account in sorted(self._accounts.items()):
                    again = await self._drop_known(conn, name, account)
                    fresh = account.staged - again
                    unloaded += await conn.fetchval(
                        query("backfill_accept"), name, self.name, self.token, account.staged_nth, fresh
                    )
                    new, known = new + fresh, known + again
        return Accepted(new=new, known=known, unloaded=unloaded)

    async def abandon(self) -> None:
        """Clears away what was staged and not accepted."""
        for name, account in sorted(self._accounts.items()):
            await drop_lines(self._pool, name, self.name, self.token, behind=account.accepted_nth)
            with understood():
                await self._pool.execute(query("backfill_clear"), name, self.name, self.token)

    async def _open(self, account: str) -> None:
        with understood():
            row = await self._pool.fetchrow(query("backfill_open"), account, self.name, self.token, self._who)
        _refuse(self.name, row)
        nth = row["accepted_nth"]
        await drop_lines(self._pool, account, self.name, self.token, behind=nth)
        self._accounts[account] = _Account(accepted_nth=nth, staged_nth=nth)

    def _next_nth(self, name: str) -> int:
        account = self._accounts[name]
        account.staged_nth += 1
        account.staged += 1
        return account.staged_nth

    async def _hold(self, conn: asyncpg.Connection, accounts: Sequence[str]) -> None:
        """Until the end of the transaction nobody takes the backfill over."""
        held = await conn.fetch(query("backfill_held"), accounts, self.name, self.token)
        if len(held) < len(accounts):
            raise taken_over(self.name)

    async def _drop_known(self, conn: asyncpg.Connection, name: str, account: _Account) -> int:
        """How many of the staged lines were accepted before; they are deleted."""
        if not account.accepted_nth or not account.staged:
            return 0
        await conn.execute(query("backfill_compare"))
        statement = query("backfill_drop_known")
        return int(await conn.fetchval(statement, name, self.name, account.accepted_nth, timeout=COMPARE_TIMEOUT_S))


async def drop_lines(pool: asyncpg.Pool, account: str, name: str, token: UUID, *, behind: int) -> None:
    """Deletes the lines of a backfill behind one, in steps, for as long as `token` holds it."""
    deleted = DROP_STEP
    while deleted == DROP_STEP:
        with understood():
            deleted = await pool.fetchval(query("backfill_drop_lines"), account, name, token, behind, DROP_STEP)


def _token(now: datetime) -> UUID:
    """Greater than that of whoever began before, by the database's clock."""
    return UUID(int=int(now.timestamp() * 1_000_000) << 64 | secrets.randbits(64))


def taken_over(name: str) -> BackfillTakenOver:
    """The error for a process that is no longer the one that loads."""
    return BackfillTakenOver(
        f"backfill {name}: another process has taken over, or somebody has cancelled it; see caspen-sync backfill list"
    )


def _refuse(name: str, row: asyncpg.Record) -> None:
    if row["cancelled_at"]:
        raise BackfillRefused(
            f"backfill {name}: was cancelled by {row['cancelled_by']}; to load it again, give it another --name"
        )
    if row["forgotten_at"]:
        raise BackfillRefused(
            f"backfill {name}: was loaded longer ago than worker.retention_days, and which lines it had is no longer "
            "known; give this one another --name"
        )
