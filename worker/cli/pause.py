"""`caspen-sync pause` and `caspen-sync resume`: one account, by hand."""

from __future__ import annotations

import argparse
import asyncio
import shlex

from worker.byhand import By, pause, resume, whoami
from worker.cli.output import print_line
from worker.cli.settings import settings_from
from worker.config import Settings
from worker.database import pool
from worker.errors import ExitCode
from worker.migrate import require_current_schema


def run_pause(args: argparse.Namespace) -> int:
    """Stops the account in every process."""
    return asyncio.run(_pause(args, settings_from(args)))


def run_resume(args: argparse.Namespace) -> int:
    """Lets the account go on, whatever it was paused for."""
    return asyncio.run(_resume(args, settings_from(args)))


async def _pause(args: argparse.Namespace, settings: Settings) -> int:
    async with pool(settings.database, max_size=1) as connections:
        await require_current_schema(connections)
        await pause(connections, settings, args.account, By(who=whoami(), reason=args.reason))
    resume_it = f"caspen-sync resume {shlex.quote(args.account)}"
    print_line(f"account {args.account} is paused until {resume_it}; requests on the wire finish")
    return ExitCode.OK


async def _resume(args: argparse.Namespace, settings: Settings) -> int:
    async with pool(settings.database, max_size=1) as connections:
        await require_current_schema(connections)
        ended = await resume(connections, settings, args.account, By(who=whoami(), reason=args.reason))
    if ended.kind is None:
        print_line(f"account {args.account} was not paused")
    else:
        print_line(f"account {args.account} goes on; it was paused: {ended.kind} ({ended.reason})")
    return ExitCode.OK
