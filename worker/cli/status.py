"""`caspen-sync status`: how it is, at a glance."""

from __future__ import annotations

import argparse
import asyncio

from worker.cli.output import counted, duration, local_time, print_json, print_line, print_table
from worker.cli.settings import settings_from
from worker.config import Settings
from worker.database import connection
from worker.errors import ExitCode
from worker.migrate import require_current_schema
from worker.status import AccountStatus, Status, status


def run(args: argparse.Namespace) -> int:
    """Prints it once."""
    return asyncio.run(_run(args, settings_from(args)))


async def _run(args: argparse.Namespace, settings: Settings) -> int:
    async with connection(settings.database) as conn:
        await require_current_schema(conn)
        found = await status(conn)
    if args.json:
        print_json(found)
    else:
        _print(found)
    return ExitCode.OK


def _print(found: Status) -> None:
    if not found.accounts:
        print("no worker has run yet; caspen-sync run --once")
        return
    print_table(
        ("ACCOUNT", "PENDING", "OLDEST", "ON THE WIRE", "BACKING OFF", "PARKED", "BUDGET", "STATE"),
        [
            (
                one.account,
                f"{one.pending} ({one.backfill} backfill)" if one.backfill else one.pending,
                "-" if one.oldest_s is None else duration(one.oldest_s),
                one.in_flight,
                one.waiting,
                one.parked,
                f"{one.budget_free} of {one.budget_limit} free",
                _state(one),
            )
            for one in found.accounts
        ],
    )
    print()
    if not found.workers:
        print("no worker is running")
    for worker in found.workers:
        print_line(f"worker {worker.worker}, version {worker.version}, since {local_time(worker.started_at)}")
    parked = sum(one.parked for one in found.accounts)
    if parked:
        print(f"{counted(parked, 'parked change')}: caspen-sync parked list")


def _state(one: AccountStatus) -> str:
    if one.pause_kind is None:
        return "ok" if one.budget_limit == one.budget_configured else f"ok, but the API grants {one.budget_limit} only"
    why = f"{one.pause_kind}: {one.pause_reason}"
    if one.paused_for_s is None:
        return f"paused by hand: {one.pause_reason}; caspen-sync resume {one.account}"
    if one.pause_kind == "throttled":
        return f"{why}; goes on in {duration(one.paused_for_s)}"
    return f"paused, {why}; next probe in {duration(one.paused_for_s)}"
