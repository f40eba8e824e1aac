"""`caspen-sync status`: how it is, at a glance."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
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
from worker.status import AccountStatus, Status, Stranger, WorkerStatus, status
from worker.summary import summary
from worker.words import counted, duration, visible

# The state stands where 80 columns show it.
HEADER = ("ACCOUNT", "STATE", "PENDING", "OLDEST", "ON THE WIRE", "BACKING OFF", "PARKED", "BUDGET")
# One long name, or one long reason, would push all the other columns out of sight.
NAME_COLUMNS = 40
STATE_COLUMNS = 80
# A cron job comes every few minutes, and none is there between two runs: what is older than this has been left.
LEFT_S = 900.0
# Where other workers are there all the time, what has waited for so long and has no worker waits for one.
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
    for line in lines(found, painter(), settings.accounts):
        print(line)


async def _watch(args: argparse.Namespace, settings: Settings) -> None:
    paint = painter()
    async with pool(settings.database, max_size=1) as connections:
        await require_current_schema(connections)
        reading = SharedReading(connections, status)

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
                *lines(found, paint, settings.accounts, width=terminal_size().columns if sys.stdout.isatty() else None),
            ]

        async def tell() -> None:
            try:
                print_json(await reading.get(args.watch), on_one_line=True)
            except DATABASE_FAULTS as fault:
                privacy.say(*fault.lines)

        await watch(tell if args.json else look, every_s=args.watch, in_place=not args.json)


def _said(fault: CaspenSyncError) -> str:
    return privacy.printable(privacy.redacted(str(fault)))


def lines(found: Status, paint: Paint, configured: Collection[str], *, width: int | None = None) -> list[str]:
    """All of it as lines of text; nothing but `paint` puts anything into them that steers a terminal. `configured`: the
    accounts that the configuration names. `width`: of the sentence that they begin with, which goes on in the next
    line."""
    rows = [
        *(_row(one, bool(found.workers)) for one in found.accounts),
        *(_strange_row(one, configured) for one in found.unregistered),
    ]
    sentence = privacy.printable(summary(found, configured))
    said = [
        paint(line, _worst(found, configured)) for line in (textwrap.wrap(sentence, width) if width else [sentence])
    ]
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


def _row(one: AccountStatus, others_run: bool) -> Sequence[object]:
    return (
        _cut(visible(one.account), NAME_COLUMNS),
        Coloured(_cut(_state(one), STATE_COLUMNS), _colour(one, others_run)),
        f"{one.pending} ({one.backfill} backfill)" if one.backfill else one.pending,
        _age(one.oldest_s),
        one.in_flight,
        one.waiting,
        Coloured(str(one.parked), "red") if one.parked else 0,
        f"{one.budget_free} of {one.budget_limit} free" + (f", {one.held_back} held back" if one.held_back else ""),
    )


def _strange_row(one: Stranger, configured: Collection[str]) -> Sequence[object]:
    known = one.account in configured
    state = "no worker has taken it up yet" if known else "no configuration names it, so no worker has it"
    return (
        _cut(visible(one.account), NAME_COLUMNS),
        Coloured(state, _colour_of_stranger(one, configured)),
        _at_least(one.changes, uncounted=one.uncounted),
        _age(one.oldest_s),
        *(None, None, None, None),
    )


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: columns - 1]}\N{HORIZONTAL ELLIPSIS}"


def _at_least(changes: int, *, uncounted: bool) -> str:
    return f"{changes} or more" if uncounted else str(changes)


def _total(found: Status) -> Sequence[object]:
    accounts = found.accounts
    ages = [one.oldest_s for one in accounts if one.oldest_s is not None]
    ages += [one.oldest_s for one in found.unregistered]
    return (
        "total",
        "",
        _at_least(
            sum(one.pending for one in accounts) + sum(one.changes for one in found.unregistered),
            uncounted=any(one.uncounted for one in found.unregistered),
        ),
        _age(max(ages, default=None)),
        sum(one.in_flight for one in accounts),
        sum(one.waiting for one in accounts),
        sum(one.parked for one in accounts),
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
        return f"paused by hand: {one.pause_reason}; caspen-sync resume {shlex.quote(one.account)}"
    if one.pause_kind == "throttled":
        return f"{why}; goes on in {duration(one.paused_for_s)}"
    return f"paused, {why}; next probe in {duration(one.paused_for_s)}"


def _colour(one: AccountStatus, others_run: bool) -> Colour:
    left = not one.served and (one.oldest_s or 0.0) > (UNSERVED_S if others_run else LEFT_S)
    if left or one.pause_kind not in (None, "throttled"):
        return "red"
    return "green" if _state(one) == "ok" and not one.waiting else "yellow"


def _colour_of_stranger(one: Stranger, configured: Collection[str]) -> Colour:
    return "yellow" if one.account in configured and one.oldest_s <= LEFT_S else "red"


def _worst(found: Status, configured: Collection[str]) -> Colour:
    """The sentence's colour: green is for nothing to wait for and nothing to do."""
    colours = {_colour(one, bool(found.workers)) for one in found.accounts}
    colours |= {_colour_of_stranger(one, configured) for one in found.unregistered}
    if "red" in colours or any(one.parked for one in found.accounts):
        return "red"
    waits = found.unregistered or any(one.pending for one in found.accounts)
    return "green" if found.accounts and not waits else "yellow"


def _workers(workers: Sequence[WorkerStatus], paint: Paint) -> Iterator[str]:
    if not workers:
        yield "no worker is running"
    for one in workers:
        yield privacy.printable(f"worker {one.worker}, version {one.version}, since {local_time(one.started_at)}")
    versions = sorted({one.version for one in workers})
    if len(versions) > 1:
        text = f"the workers are of different versions: {', '.join(versions)}"
        yield paint(privacy.printable(text), "yellow")
