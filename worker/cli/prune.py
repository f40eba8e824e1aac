"""`caspen-sync prune`."""

from __future__ import annotations

import argparse
import asyncio

from worker.cli.output import counted
from worker.cli.settings import settings_from
from worker.config import Settings
from worker.database import pool
from worker.errors import ExitCode
from worker.migrate import require_current_schema
from worker.retention import prune


def run(args: argparse.Namespace) -> int:
    """Deletes, and says how much."""
    return asyncio.run(_run(settings_from(args)))


async def _run(settings: Settings) -> int:
    days = settings.worker.retention_days
    async with pool(settings.database, max_size=1) as connections:
        await require_current_schema(connections)
        pruned = await prune(connections, retention_days=days)
    changes, attempts = counted(pruned.changes, "finished change"), counted(pruned.attempts, "attempt")
    print(f"deleted {changes} and {attempts} older than {days:g} days")
    return ExitCode.OK
