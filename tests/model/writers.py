"""Writers: transactions that are open for as long as they like, on the same appointments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from tests.model.ledger import Change, Ledger

_INSERT = "INSERT INTO caspen_sync.outbox (account, appointment_id, changes, lane) VALUES ($1, $2, $3, $4) RETURNING id"


@dataclass(slots=True, eq=False)
class Writer:
    """One connection of an application."""

    conn: asyncpg.Connection
    pid: int
    written: list[dict[int, Change]] = field(default_factory=list)
    """What it has written since it began, and since each savepoint; empty: it has no transaction."""
    waiting: asyncio.Task[Any] | None = None
    """An insert that waits for another writer."""
    wants: str | None = None
    """The appointment it waits for."""

    @property
    def is_open(self) -> bool:
        return bool(self.written)

    @property
    def changes(self) -> dict[int, Change]:
        return {number: change for part in self.written for number, change in part.items()}

    @property
    def locks(self) -> set[str]:
        return {change.appointment for change in self.changes.values()}


class Writers:
    """All of them, and who waits for whom."""

    def __init__(self, writers: Sequence[Writer], control: asyncpg.Connection, account: str, ledger: Ledger) -> None:
        """`control`: a connection to ask who is waiting."""
        self.all = writers
        self._control = control
        self._account = account
        self._ledger = ledger

    @property
    def able(self) -> list[Writer]:
        """Those that have a transaction, and wait for nobody."""
        return [writer for writer in self.all if writer.is_open and not writer.waiting]

    def is_free(self, appointment: str) -> bool:
        """Whether a writer would wait for nobody."""
        return all(appointment not in writer.locks | {writer.wants} for writer in self.all)

    def may_insert(self, writer: Writer, appointment: str) -> bool:
        """Whether it is free, and nobody would wait for ever: a deadlock takes Postgres a second to find. Of several
        that wait for the same appointment nobody could say who is next."""
        if writer.waiting:
            return False
        holder = self._holder(appointment, but=writer)
        if holder is None:
            return True
        if any(other.wants == appointment for other in self.all):
            return False
        while holder is not None and holder.wants is not None:
            if appointment in writer.locks or holder.wants in writer.locks:
                return False
            holder = self._holder(holder.wants, but=holder)
        return holder is not writer

    async def insert(self, writer: Writer, change: Change) -> None:
        """Writes a change, in the transaction that is open, or in a new one."""
        if not writer.is_open:
            await writer.conn.execute("BEGIN")
            writer.written = [{}]
        writer.wants = change.appointment
        writer.waiting = asyncio.create_task(self._insert(writer, change))
        await self._until_it_stands(writer)

    async def savepoint(self, writer: Writer) -> None:
        await writer.conn.execute(f"SAVEPOINT s{len(writer.written)}")
        writer.written.append({})

    async def roll_back_to_savepoint(self, writer: Writer) -> None:
        await writer.conn.execute(f"ROLLBACK TO SAVEPOINT s{len(writer.written) - 1}")
        writer.written[-1] = {}
        await self._let_others_go_on()

    async def end(self, writer: Writer, *, commit: bool) -> None:
        """Ends its transaction."""
        await writer.conn.execute("COMMIT" if commit else "ROLLBACK")
        if commit:
            self._ledger.commit(writer.changes)
        writer.written = []
        await self._let_others_go_on()

    async def end_all(self, *, commit: bool) -> None:
        """Ends all transactions, those that wait as soon as they can."""
        while able := self.able:
            await self.end(able[0], commit=commit)

    async def give_up(self) -> None:
        """Ends all of them without a word, for a run that is over."""
        for writer in self.all:
            if writer.waiting:
                writer.waiting.cancel()
                await asyncio.wait({writer.waiting})
            writer.waiting = writer.wants = None
        for writer in self.all:
            if writer.is_open:
                await writer.conn.execute("ROLLBACK")
                writer.written = []

    def _holder(self, appointment: str, *, but: Writer) -> Writer | None:
        return next((w for w in self.all if w is not but and appointment in w.locks), None)

    async def _insert(self, writer: Writer, change: Change) -> None:
        number = await writer.conn.fetchval(
            _INSERT, self._account, change.appointment, json.dumps(change.says), change.lane
        )
        writer.written[-1][number] = change

    async def _let_others_go_on(self) -> None:
        for writer in self.all:
            if writer.waiting:
                await self._until_it_stands(writer)

    async def _until_it_stands(self, writer: Writer) -> None:
        """Until its insert is done, or waits for somebody."""
        task = writer.waiting
        assert task is not None
        while not task.done():
            await asyncio.wait({task}, timeout=0.001)
            if not task.done() and await self._control.fetchval("SELECT pg_blocking_pids($1)", writer.pid):
                return
        writer.waiting = writer.wants = None
        await task
