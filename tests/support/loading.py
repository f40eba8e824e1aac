"""Backfills in a test's own process: lines that are staged, accepted and loaded, without a file and without an API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tests.support import canary, madeup
from tests.support.database import Database
from worker.backfill.loading import Loaded, Loader
from worker.backfill.rows import Row
from worker.backfill.staging import Accepted, Staging

NAME = "year.jsonl"
Line = tuple[str, Mapping[str, Any]]


def row(line: int, appointment_id: str, changes: Mapping[str, Any], account: str = "default") -> Row:
    canary.sing(changes)
    return madeup.row(line, appointment_id, changes, account=account)


def rows(lines: Sequence[Line], account: str = "default") -> list[Row]:
    return [row(number, *line, account=account) for number, line in enumerate(lines, start=1)]


async def begun(
    database: Database, *, name: str = NAME, as_of: datetime | None = None, accounts: Sequence[str] = ("default",)
) -> Staging:
    return await Staging.begin(database.workers, name=name, accounts=accounts, who="ann@desk", as_of=as_of)


async def staged(database: Database, lines: Sequence[Line], **options: Any) -> Staging:
    staging = await begun(database, **options)
    await staging.stage(rows(lines))
    return staging


async def accepted(database: Database, lines: Sequence[Line], **options: Any) -> tuple[Staging, Accepted]:
    staging = await staged(database, lines, **options)
    return staging, await staging.accept()


async def moved(database: Database, staging: Staging, look_on: Callable[[Loaded], None] = lambda _: None) -> Loaded:
    loader = Loader(database.workers, name=staging.name, token=staging.token, accounts=staging.accounts)
    return await loader.load(asyncio.Event(), look_on)


async def loaded(database: Database, lines: Sequence[Line], **options: Any) -> Loaded:
    """The whole of it."""
    staging, _ = await accepted(database, lines, **options)
    return await moved(database, staging)


async def outbox(database: Database) -> list[tuple[str, dict[str, Any], str]]:
    """What the outbox holds, in the order of the ids: appointment, changes, state."""
    found = await database.rows("SELECT appointment_id, changes, state FROM caspen_sync.outbox ORDER BY id")
    return [(one["appointment_id"], json.loads(one["changes"]), one["state"]) for one in found]
