"""`caspen-sync prune`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator

from worker.cli.settings import settings_from
from worker.config import Settings
from worker.database import pool
from worker.errors import ExitCode
from worker.migrate import require_current_schema
from worker.retention import Pruned, prune
from worker.words import counted


def run(args: argparse.Namespace) -> int:
    """Deletes, and says how much."""
    return asyncio.run(_run(settings_from(args), args.older_than))


async def _run(settings: Settings, older_than: float | None) -> int:
    days = settings.worker.retention_days if older_than is None else older_than
    async with pool(settings.database, max_size=1) as connections:
        await require_current_schema(connections)
        with _progress() as show:
            pruned = await prune(connections, retention_days=days, look_on=show)
    print(f"deleted {_said(pruned)} older than {days:g} days")
    return ExitCode.OK


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Pruned], None]]:
    """In a terminal, a line that tells how far it is; a million rows take minutes."""
    if not sys.stdout.isatty():
        yield lambda _: None
        return
    try:
        yield lambda pruned: print(f"\r{_said(pruned)} so far ", end="", flush=True)
    except BaseException:
        print()  # that much is gone, whatever ended it
        raise
    print("\r\x1b[K", end="")


def _said(pruned: Pruned) -> str:
    lines = f", {counted(pruned.attempts, 'attempt')} and {counted(pruned.lines, 'line')} of backfills"
    attempts = f" and {counted(pruned.attempts, 'attempt')}"
    return f"{counted(pruned.changes, 'finished change')}{lines if pruned.lines else attempts}"
