"""`caspen-sync run`: the service and the cron job."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from worker import clock
from worker.cli.messages import complain
from worker.cli.settings import quieter, settings_from
from worker.config import Settings
from worker.database import connection, understood
from worker.errors import DatabaseUnreachable, ExitCode, UsageError
from worker.migrate import require_current_schema
from worker.runtime import GRACE_S
from worker.threads import DetachedThreads
from worker.token import account_token

if TYPE_CHECKING:
    from worker.metrics import Metrics

T = TypeVar("T")

# The engine breaks itself off; what is before it and after it, and how long that may take besides, in seconds.
AROUND_S = 0.3


def run(args: argparse.Namespace) -> int:
    """Works, and says in one line why when it does not end with 0."""
    ends_at = None if args.max_runtime is None else clock.now() + args.max_runtime
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it is listened to: a reload at the start is no end
    for option in ("listen",) if args.once else ("max_runtime", "textfile"):
        if getattr(args, option) is not None:
            name = option.replace("_", "-")
            raise UsageError(f"run: --{name} {'does not go' if args.once else 'goes'} with --once")
    if args.textfile is None:
        return _run(settings_from(args), args, ends_at)

    from worker.cli.textfile import Record

    record = Record(args.textfile, ends_at)

    def recorded() -> int:
        record.settings = settings_from(args)
        record.metrics.begin(sorted(record.settings.accounts))
        return _run(record.settings, args, ends_at, record.metrics)

    return record.of(recorded)


def _run(settings: Settings, args: argparse.Namespace, ends_at: float | None, metrics: Metrics | None = None) -> int:
    if args.once:
        settings = quieter(settings, args)  # a cron job that went well says nothing
    tokens = {name: account_token(name, account) for name, account in settings.accounts.items()}
    if args.once and asyncio.run(_in_time(_idle(settings), ends_at)):
        return ExitCode.OK

    # The idle cron run ends above, without these and what they import.
    from worker import loop
    from worker.runner import run as run_engine

    working = run_engine(settings, tokens, once=args.once, ends_at=ends_at, metrics=metrics)
    report = loop.run(_in_time(working, ends_at))
    if report.reason:
        complain(report.reason)
    return report.exit_code


async def _in_time(work: Awaitable[T], ends_at: float | None) -> T:
    """What the work returns. It ends by itself; only where the database does not answer it is cut short."""
    asyncio.get_running_loop().set_default_executor(DetachedThreads())
    try:
        async with asyncio.timeout(None if ends_at is None else ends_at - clock.now() + GRACE_S + AROUND_S):
            return await work
    except TimeoutError:
        raise DatabaseUnreachable("database: no answer within --max-runtime") from None


async def _idle(settings: Settings) -> bool:
    """Whether there is nothing to do at all: no change has arrived, none is due, waiting or held by anyone."""
    from worker.sqlfiles import query

    async with connection(settings.database) as conn:
        await require_current_schema(conn)
        with understood():
            return bool(await conn.fetchval(query("idle"), list(settings.accounts)))
