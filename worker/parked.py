"""Parked changes, and what a person does to them: look, send again, replace, give up.

A change that is sent again goes in at its old place in the order. What newer changes of its appointment have set since
is left out of it: here that is only told; `claim.sql` and `merge.py` do it when the change is sent.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, TypeVar

import asyncpg

from worker.byhand import By, wait_briefly
from worker.config import ApiSettings
from worker.contract import BODY_MAX_BYTES, check_update
from worker.database import understood
from worker.errors import DATABASE_FAULTS, UsageError
from worker.sqlfiles import query

# Changes of one transaction: it locks their appointments' rows of the queue.
BATCH = 500
# A body of some thousand brackets in each other would be megabytes of blanks: it is shown as it stands.
_INDENTED_MOST = 1_000_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which parked changes; None stands for any."""

    ids: tuple[int, ...] | None = None
    account: str | None = None
    appointment_id: str | None = None
    since: datetime | None = None
    """Parked at this time or later."""
    error: str | None = None
    """Part of the error, in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedChange:
    """One parked change, without its body."""

    id: int
    account: str
    appointment_id: str
    lane: str
    source: str | None
    created_at: datetime | None
    """None: the writer gave no time of a calendar, such as infinity."""
    parked_at: datetime
    attempts: int
    error: str | None
    fields: tuple[str, ...]
    superseded: tuple[str, ...]
    """The fields of it that newer changes have set since."""

    @property
    def outdated(self) -> bool:
        """Whether newer changes have set all of it since."""
        return self.fields == self.superseded


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a change says, and what the API said to it. For the eyes of the person who asked for it."""

    changes: Mapping[str, Any] | str = field(repr=False)
    """As text where it is too deep or too long a number to be read."""
    messages: Mapping[str, Any] | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """What became of one change that was to be sent again."""

    id: int
    left_out: tuple[str, ...]
    discarded: bool
    """Newer changes have set all of it: there was nothing left to send."""


async def find(conn: asyncpg.Connection, wanted: Filter, *, limit: int | None = None) -> list[ParkedChange]:
    """The parked changes that match, oldest first, at most `limit`."""
    with understood():
        rows = await conn.fetch(
            query("parked_list"),
            wanted.account,
            wanted.appointment_id,
            wanted.since,
            wanted.error,
            None if wanted.ids is None else list(wanted.ids),
            limit,
        )
    return [
        ParkedChange(**(dict(row) | {"fields": tuple(row["fields"]), "superseded": tuple(row["superseded"])}))
        for row in rows
    ]


async def find_all(conn: asyncpg.Connection, ids: Sequence[int], *, account: str | None = None) -> list[ParkedChange]:
    """The parked changes with these ids. Raises UsageError, naming those that are not parked and what they are."""
    found = await find(conn, Filter(ids=tuple(ids), account=account))
    missing = sorted(set(ids) - {change.id for change in found})
    if missing:
        with understood():
            rows = await conn.fetch(query("change_states"), missing)
            states = {row["id"]: f"{row['state']}, account {row['account']}" for row in rows}
        what = ", ".join(f"{one} ({states[one]})" if one in states else f"{one} (no such change)" for one in missing)
        where = f" in account {account}" if account else ""
        raise UsageError(f"parked: not parked{where}: {what}; nothing was changed; see caspen-sync parked list")
    return found


async def of_reason(
    conn: asyncpg.Connection, digest: str | None, *, account: str | None, after: int = 0, limit: int
) -> list[int]:
    """The ids of the changes that are parked for this reason, None for any, oldest first: those above `after`."""
    with understood():
        rows = await conn.fetch(query("parked_of_reason"), account, digest, after, limit)
    return [row["id"] for row in rows]


async def contents(conn: asyncpg.Connection, account: str, change_id: int) -> Contents:
    """A change's body, and the API's words. Raises UsageError when it is gone."""
    with understood():
        row = await conn.fetchrow(query("change_body"), account, change_id)
    if row is None:
        raise UsageError(f"change {change_id} of account {account} is gone")
    messages = None if row["messages"] is None else json.loads(row["messages"])
    return Contents(changes=_readable(row["changes"]), messages=messages)


async def retry(conn: asyncpg.Connection, changes: Iterable[ParkedChange], by: By) -> list[Retried]:
    """Makes changes pending again. Those that somebody else dealt with in the meantime are not among the results.

    Raises what the database raises, and says how many were done before that, if any: see `BATCH`.
    """

    async def bring_back(account: str, ids: list[int]) -> list[Retried]:
        return await _bring_back(conn, account, ids, by, None)

    return await _in_batches(changes, bring_back)


async def edit(
    conn: asyncpg.Connection, change: ParkedChange, body: Mapping[str, Any], by: By, api: ApiSettings
) -> Retried:
    """Replaces what a change says, and makes it pending again.

    Raises UsageError when the new body breaks the API's contract, or somebody else dealt with the change meanwhile.
    """
    text = json.dumps(body)
    problems = [str(problem) for problem in check_update(body, ids=api.ids)]
    if len(text.encode()) > BODY_MAX_BYTES:
        problems.append(f"changes: must be at most {BODY_MAX_BYTES} bytes")
    if problems:
        raise UsageError(f"parked edit: breaks the API's contract: {'; '.join(problems)}; nothing was changed")
    try:
        done = await _bring_back(conn, change.account, [change.id], by, text)
    except asyncpg.DataError:
        raise UsageError("parked edit: Postgres cannot hold that, such as a NUL; nothing was changed") from None
    if not done:
        raise UsageError(f"parked edit: somebody else dealt with change {change.id} meanwhile; nothing was changed")
    return done[0]


async def discard(conn: asyncpg.Connection, changes: Iterable[ParkedChange], by: By) -> int:
    """Gives changes up. Returns how many; somebody else may have dealt with the others. Raises as `retry` does."""

    async def give_up(account: str, ids: list[int]) -> list[asyncpg.Record]:
        with understood():
            async with conn.transaction():
                await wait_briefly(conn)
                given_up: list[asyncpg.Record] = await conn.fetch(query("discard"), account, ids, by.who, by.reason)
        return given_up

    return len(await _in_batches(changes, give_up))


async def _bring_back(
    conn: asyncpg.Connection, account: str, ids: list[int], by: By, changes: str | None
) -> list[Retried]:
    with understood():
        async with conn.transaction():
            # A statement of its own, so that the next one sees what was settled while this one waited.
            await conn.execute(query("lock_appointments"), account, ids)
            # From here on claims may wait for us, and we for whoever loads a backfill.
            await wait_briefly(conn)
            rows = await conn.fetch(query("bring_back"), account, ids, by.who, by.reason, changes)
            await conn.execute(query("wake"), account)
    return [Retried(id=row["id"], left_out=tuple(row["left_out"]), discarded=row["discarded"]) for row in rows]


def _readable(text: str) -> Mapping[str, Any] | str:
    try:
        changes: Mapping[str, Any] = json.loads(text)
        indented = json.dumps(changes, indent=2)
    except (ValueError, RecursionError):
        return text
    return changes if len(indented) <= _INDENTED_MOST else text


async def _in_batches(
    changes: Iterable[ParkedChange], do: Callable[[str, list[int]], Awaitable[Sequence[T]]]
) -> list[T]:
    """What `do` made of each batch, which is a transaction of its own."""
    wanted = list(changes)
    tried, done = 0, list[T]()
    for account, ids in _batches(wanted):
        try:
            done += await do(account, ids)
        except DATABASE_FAULTS as fault:
            if not tried:
                raise
            raise type(fault)(f"{tried} of {len(wanted)} changes were done, and then: {fault}") from fault
        tried += len(ids)
    return done


def _batches(changes: Iterable[ParkedChange]) -> Iterable[tuple[str, list[int]]]:
    """Ids by account, at most BATCH at a time."""
    ordered = sorted(changes, key=lambda change: (change.account, change.id))
    for account, group in groupby(ordered, key=lambda change: change.account):
        ids = [change.id for change in group]
        for first in range(0, len(ids), BATCH):
            yield account, ids[first : first + BATCH]
