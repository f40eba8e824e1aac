"""`caspen-sync backfill FILE --dry-run`: what it would do and when it would be done, and nothing is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TypeVar

import asyncpg

from worker import privacy
from worker.backfill.census import Census
from worker.backfill.estimate import estimate, unmeasured
from worker.backfill.examining import examine
from worker.backfill.known import known_lines, unloaded_lines
from worker.backfill.newer import fates
from worker.backfill.rows import Batch, Source
from worker.cli.dryreport import DryRun, as_object, print_report
from worker.cli.output import print_json
from worker.cli.reading import reading_line
from worker.cli.terminal import enough_read
from worker.config import Settings
from worker.database import pool
from worker.errors import DATABASE_FAULTS, CaspenSyncError, ExitCode, SchemaTooNew
from worker.migrate import require_current_schema
from worker.store import MAX_CHANGES_PER_CLAIM

DUPLICATES_NAMED = 5
_T = TypeVar("_T")
_FAULTS = (*DATABASE_FAULTS, SchemaTooNew)


async def dry_run(
    source: Source, settings: Settings, *, name: str, as_of: datetime | None, problems: int, as_json: bool
) -> int:
    """Reads all of the source and reports. `as_of`: None, unless it was asked for. `problems`: how many to name.

    Without a database it says what it can, and then raises what the database did, unless lines are invalid. Raises
    SourceError, NoRoom, and UsageError for a name that is used up.
    """
    found = await _look(source, settings, name=name, as_of=as_of, problems=problems)
    with enough_read():
        if as_json:
            print_json(as_object(found))
        else:
            print_report(found)
    if found.examined.rejected:
        if found.fault:
            privacy.say(*found.fault.lines)
        return ExitCode.PARKED
    if found.fault:
        raise found.fault
    return ExitCode.OK


async def _look(source: Source, settings: Settings, *, name: str, as_of: datetime | None, problems: int) -> DryRun:
    async with AsyncExitStack() as opened:
        database = _MaybeDatabase(opened, settings)
        census = opened.enter_context(Census(most_folded=most_folded(settings)))
        await database.ask(lambda connections: _take_in_known(connections, name, settings, census))

        async def leave_out(batch: Batch) -> None:
            if as_of is not None and batch.rows:
                await database.ask(lambda connections: _take_in_fates(connections, batch, as_of, census))

        with reading_line() as show:
            examined = await examine(source, census, on_batch=leave_out, problems=problems, show=show)
        counted = await census.counted(duplicates=DUPLICATES_NAMED)
        expected = await database.ask(lambda connections: estimate(connections, counted.requests, settings.accounts))
        unloaded = await database.ask(lambda connections: unloaded_lines(connections, name, sorted(settings.accounts)))
        return DryRun(
            name=name,
            as_of=as_of,
            examined=examined,
            counted=counted,
            estimate=expected or unmeasured(counted.requests, settings.accounts),
            unloaded=unloaded or 0,
            fault=database.fault,
        )


def most_folded(settings: Settings) -> int:
    """How many changes of an appointment one request carries at the most."""
    return MAX_CHANGES_PER_CLAIM if settings.worker.coalesce else 1


class _MaybeDatabase:
    """Is asked until it fails for the first time."""

    def __init__(self, opened: AsyncExitStack, settings: Settings) -> None:
        self.fault: CaspenSyncError | None = None
        self._opened = opened
        self._settings = settings
        self._connections: asyncpg.Pool | None = None

    async def ask(self, question: Callable[[asyncpg.Pool], Awaitable[_T]]) -> _T | None:
        """The answer; None once something has failed."""
        if self.fault:
            return None
        try:
            if self._connections is None:
                self._connections = await self._opened.enter_async_context(pool(self._settings.database, max_size=1))
                await require_current_schema(self._connections)
            return await question(self._connections)
        except _FAULTS as fault:
            self.fault = fault
            return None


async def _take_in_known(connections: asyncpg.Pool, name: str, settings: Settings, census: Census) -> None:
    async for lines in known_lines(connections, name, sorted(settings.accounts)):
        census.know(lines)


async def _take_in_fates(connections: asyncpg.Pool, batch: Batch, as_of: datetime, census: Census) -> None:
    census.leave_out(await fates(connections, batch.rows, as_of))
