"""`caspen-sync status`: how it is, at a glance."""

from __future__ import annotations

import argparse
import asyncio
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from worker import privacy
from worker.cli.output import Colour, Coloured, Paint, local_time, painter, print_json, table_lines
from worker.cli.settings import settings_from
from worker.cli.watch import terminal_size, watch
from worker.config import Settings
from worker.database import connection, pool
from worker.errors import DATABASE_FAULTS, CaspenSyncError, ExitCode
from worker.migrate import require_current_schema
from worker.reading import SharedReading
from worker.status import STRANGERS_COUNTED, AccountStatus, Status, Stranger, WorkerStatus, status
from worker.summary import summary
from worker.words import counted, duration

HEADER = ("ACCOUNT", "PENDING", "OLDEST", "ON THE WIRE", "BACKING OFF", "PARKED", "BUDGET", "STATE")
# A cron job comes every minute. What has waited for longer than two, and has no worker, waits for one.
UNSERVED_S = 120.0


def run(args: argparse.Namespace) -> int:
    """Prints it, once or again and again."""
    settings = settings_from(args)
    asyncio.run(_once(args, settings) if args.watch is None else _watch(args, settings))
    return ExitCode.OK


async def _once(args: argparse.Namespace, settings: Settings) -> None:
    async with connection(settings.database) as conn:
        await require_current_schema(conn)
        found = await status(conn)
    if args.json:
        print_json(found)
        return
    for line in lines(found, painter()):
        print(line)


async def _watch(args: argparse.Namespace, settings: Settings) -> None:
    paint = painter()
    async with pool(settings.database, max_size=1) as connections:
        await require_current_schema(connections)
        reading = SharedReading(connections)

        async def look() -> list[str]:
            head = local_time(datetime.now(UTC))
            try:
                found = await reading.get(args.watch)
            except DATABASE_FAULTS as fault:
                return [head, paint(_said(fault), "red")]
            # Over a large backlog, figures are kept for as long as fifty times what it took to count.
            age = f", counted {duration(found.age_s)} ago" if found.age_s > args.watch else ""
            return [
                f"{head}{age}",
                *lines(found, paint, width=terminal_size().columns if sys.stdout.isatty() else None),
            ]

        async def tell() -> None:
            try:
                print_json(await reading.get(args.watch), on_one_line=True)
            except DATABASE_FAULTS as fault:
                privacy.say(str(fault))

        await watch(tell if args.json else look, every_s=args.watch)


def _said(fault: CaspenSyncError) -> str:
    return privacy.printable(privacy.redacted(str(fault)))


def lines(found: Status, paint: Paint, *, width: int | None = None) -> list[str]:
    """All of it as lines of text; nothing but `paint` puts anything into them that steers a terminal. `width`: of the
    sentence that they begin with, which goes on in the next line."""
    rows = [*map(_row, found.accounts), *map(_strange_row, found.unregistered)]
    sentence = privacy.printable(summary(found))
    said = [paint(line, _worst(found)) for line in (textwrap.wrap(sentence, width) if width else [sentence])]
    if not rows:
        return said
    if len(rows) > 1:
        rows.append(_total(found))
    parked = sum(one.parked for one in found.accounts)
    return [
        *said,
        "",
        *table_lines(HEADER, rows, paint),
        "",
        *_workers(found.workers, paint),
        *([f"{counted(parked, 'parked change')}: caspen-sync parked list"] if parked else []),
    ]


def _row(one: AccountStatus) -> Sequence[object]:
    return (
        one.account,
        f"{one.pending} ({one.backfill} backfill)" if one.backfill else one.pending,
        _age(one.oldest_s),
        one.in_flight,
        one.waiting,
        Coloured(str(one.parked), "red") if one.parked else 0,
        f"{one.budget_free} of {one.budget_limit} free" + (f", {one.held_back} held back" if one.held_back else ""),
        Coloured(_state(one), _colour(one)),
    )


def _strange_row(one: Stranger) -> Sequence[object]:
    pending = f"{one.changes} or more" if one.changes >= STRANGERS_COUNTED else one.changes
    state = Coloured("no configuration names it, so no worker has it", "red")
    return (one.account, pending, _age(one.oldest_s), None, None, None, None, state)


def _total(found: Status) -> Sequence[object]:
    accounts = found.accounts
    ages = [one.oldest_s for one in accounts if one.oldest_s is not None]
    ages += [one.oldest_s for one in found.unregistered]
    return (
        "total",
        sum(one.pending for one in accounts) + sum(one.changes for one in found.unregistered),
        _age(max(ages, default=None)),
        sum(one.in_flight for one in accounts),
        sum(one.waiting for one in accounts),
        sum(one.parked for one in accounts),
        "",
        "",
    )


def _age(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)


def _state(one: AccountStatus) -> str:
    return "; ".join(_states(one)) or "ok"


def _states(one: AccountStatus) -> Iterator[str]:
    if one.pause_kind is not None:
        yield _pause(one)
    if one.pending and not one.served:
        yield "no worker is running for it"
    if one.done_in_s is not None:
        yield "waits for budget"
    if one.budget_limit != one.budget_configured:
        yield f"the API grants {one.budget_limit} only"


def _pause(one: AccountStatus) -> str:
    why = f"{one.pause_kind}: {one.pause_reason}"
    if one.paused_for_s is None:
        return f"paused by hand: {one.pause_reason}; caspen-sync resume {one.account}"
    if one.pause_kind == "throttled":
        return f"{why}; goes on in {duration(one.paused_for_s)}"
    return f"paused, {why}; next probe in {duration(one.paused_for_s)}"


def _colour(one: AccountStatus) -> Colour:
    if one.pause_kind not in (None, "throttled") or (not one.served and (one.oldest_s or 0.0) > UNSERVED_S):
        return "red"
    return "green" if _state(one) == "ok" and not one.waiting else "yellow"


def _worst(found: Status) -> Colour:
    """The sentence's colour: green is for nothing to wait for and nothing to do."""
    colours = {_colour(one) for one in found.accounts}
    if found.unregistered or "red" in colours or any(one.parked for one in found.accounts):
        return "red"
    return "green" if found.accounts and not any(one.pending for one in found.accounts) else "yellow"


def _workers(workers: Sequence[WorkerStatus], paint: Paint) -> Iterator[str]:
    if not workers:
        yield "no worker is running"
    for one in workers:
        yield privacy.printable(f"worker {one.worker}, version {one.version}, since {local_time(one.started_at)}")
    versions = sorted({one.version for one in workers})
    if len(versions) > 1:
        text = f"the workers are of different versions: {', '.join(versions)}"
        yield paint(privacy.printable(text), "yellow")
