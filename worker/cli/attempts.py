"""`caspen-sync attempts`: the requests that were made for one appointment."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from worker.cli.output import local_time, print_json, print_line, print_table
from worker.cli.settings import settings_from
from worker.config import Settings
from worker.database import connection
from worker.errors import ExitCode
from worker.history import LoggedAttempt, attempts
from worker.migrate import require_current_schema


def run(args: argparse.Namespace) -> int:
    """Prints them, newest first."""
    return asyncio.run(_run(args, settings_from(args)))


async def _run(args: argparse.Namespace, settings: Settings) -> int:
    async with connection(settings.database) as conn:
        await require_current_schema(conn)
        found = await attempts(conn, args.appointment, account=args.account, limit=args.limit)
    if args.json:
        print_json(found)
    elif found:
        print_attempts(found)
    else:
        print_line(f"no request was made for {args.appointment}")
    return ExitCode.OK


def print_attempts(found: Sequence[LoggedAttempt]) -> None:
    """As a table."""
    print_table(
        ("AT", "OUTCOME", "STATUS", "MS", "CHANGES", "WORKER", "ERROR"),
        [
            (
                local_time(one.started_at),
                one.outcome,
                one.http_status,
                round(one.duration_ms),
                _ids(one.change_ids),
                one.worker,
                one.error or "",
            )
            for one in found
        ],
    )


def _ids(ids: Sequence[int]) -> str:
    if len(ids) <= 4:
        return ",".join(map(str, ids))
    return f"{ids[0]},…,{ids[-1]} ({len(ids)})"
