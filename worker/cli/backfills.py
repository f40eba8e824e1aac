"""`caspen-sync backfill list|status|cancel`: what was loaded before."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

import asyncpg

from worker.backfill.cancelling import Cancelled, cancel
from worker.backfill.estimate import Estimate, estimate
from worker.backfill.registry import Backfill, State, backfills, left_out, waiting
from worker.byhand import whoami
from worker.cli.asking import confirmed
from worker.cli.bar import Stage, shown
from worker.cli.estimated import remarks, when
from worker.cli.howfar import sentence
from worker.cli.interrupts import Interrupted, interrupts
from worker.cli.messages import complain
from worker.cli.output import local_time, print_json, print_line, print_table
from worker.cli.settings import settings_from
from worker.config import Settings
from worker.database import pool
from worker.errors import ExitCode, UsageError
from worker.migrate import require_current_schema
from worker.words import counted

# Of more, the sentence would be a page.
NAMES_SAID = 10

HEADER = (
    "NAME",
    "ACCOUNT",
    "STATE",
    "STARTED",
    "BY",
    "CHANGES",
    "SYNCED",
    "PENDING",
    "PARKED",
    "DISCARDED",
    "LEFT OUT",
)

_FORGOTTEN = "which ones is forgotten, after worker.retention_days"

Action = Callable[[asyncpg.Pool, argparse.Namespace, Settings], Awaitable[None]]


def run(args: argparse.Namespace) -> int:
    """Runs one of the actions."""
    actions: dict[str, Action] = {"list": _list, "status": _status, "cancel": _cancel}
    try:
        asyncio.run(_with_database(actions[args.action], args))
    except Interrupted as interrupted:
        complain(str(interrupted))
        return ExitCode.WORK_LEFT
    return ExitCode.OK


async def _with_database(action: Action, args: argparse.Namespace) -> None:
    settings = settings_from(args)
    async with pool(settings.database, max_size=1) as connections:
        await require_current_schema(connections)
        await action(connections, args, settings)


# -- looking -----------------------------------------------------------------------------------------------------------


async def _list(connections: asyncpg.Pool, args: argparse.Namespace, _: Settings) -> None:
    found = await backfills(connections)
    if args.json:
        print_json([_as_json(one) for one in found])
    elif found:
        print_table(HEADER, [_row(one) for one in found])
    else:
        print("no backfill was loaded; caspen-sync backfill FILE")


async def _status(connections: asyncpg.Pool, args: argparse.Namespace, settings: Settings) -> None:
    found = await _named(connections, args.name)
    if args.left_out:
        await _print_left_out(connections, found, as_json=args.json)
        return
    expected = await _expected(connections, found, settings)
    if args.json:
        accounts = [_as_json(one) for one in found]
        done_at = expected and expected.done_at
        print_json(
            {"name": args.name, "state": _state(found), "done_at": done_at, "accounts": accounts, "estimate": expected}
        )
        return
    print_line(sentence(found, when=when(expected) if expected else None))
    print()
    print_table(HEADER[1:], [_row(one)[1:] for one in found])
    for remark in remarks(expected) if expected else ():
        print_line(remark)
    if lines := sum(one.left_out for one in found):
        what = f"newer changes had set some of {counted(lines, 'line')}"
        print(f"{what}: {_FORGOTTEN if _forgotten(found) else '--left-out lists them'}")


async def _expected(connections: asyncpg.Pool, found: Sequence[Backfill], settings: Settings) -> Estimate | None:
    """When what waits is done; None: nothing waits, or it is in an account that the configuration does not name."""
    requests = {one.account: one.pending for one in found if one.pending}
    if not requests or not requests.keys() <= settings.accounts.keys():
        return None
    if settings.worker.coalesce:
        requests |= await waiting(connections, found[0].name)
    return await estimate(connections, requests, settings.accounts, queued=True)


async def _print_left_out(connections: asyncpg.Pool, found: Sequence[Backfill], *, as_json: bool) -> None:
    """One line for each, as they come: there may be as many as the backfill has lines."""
    lines = 0
    for one in found:
        async for without in left_out(connections, one.account, one.name):
            lines += 1
            if as_json:
                print_json(without, on_one_line=True)
                continue
            fields = ", ".join(
                f"{field} (change {newer})" for field, newer in zip(without.fields, without.newer, strict=True)
            )
            account = f", account {without.account}" if len(found) > 1 else ""
            print_line(
                f"line {without.line}, change {without.change_id} of {without.appointment_id}{account}: {fields}"
            )
    if not as_json:
        nothing = _FORGOTTEN if _forgotten(found) else "nothing was left out"
        print(f"{counted(lines, 'line')} without what newer changes had set" if lines else nothing)


def _forgotten(found: Sequence[Backfill]) -> bool:
    return any(one.forgotten_at for one in found)


# -- giving up ---------------------------------------------------------------------------------------------------------


async def _cancel(connections: asyncpg.Pool, args: argparse.Namespace, _: Settings) -> None:
    found = await _named(connections, args.name)
    pending, unread = sum(one.pending for one in found), sum(one.lines - one.loaded for one in found)
    loading = any(one.unloaded and not one.cancelled_at for one in found)
    if not pending and not loading:
        if any(one.cancelled_at for one in found) and not args.dry_run:
            await cancel(connections, args.name, who=whoami(), look_on=lambda _: None)  # it may have been killed
        print_line(f"nothing of {args.name} is pending; nothing was changed")
        return
    what = f"{counted(pending, 'pending change')} of {args.name}"
    if unread:
        what += f" and {counted(unread, 'line')} not loaded yet"
    if args.dry_run:
        print_line(f"{what} would be discarded; nothing was changed")
        return
    if not args.yes and pending + unread and not confirmed(f"discard {what}", pending + unread):
        print("nothing was changed")
        return
    with shown() as show, interrupts() as interrupted:
        done = await interrupted.ends(
            cancel(connections, args.name, who=whoami(), look_on=lambda far: show(_stage(args.name, far, pending))),
            f"{args.name}: interrupted; what is not discarded is sent all the same",
        )
    and_lines = f", {counted(done.not_loaded, 'line')} not loaded" if done.not_loaded else ""
    print_line(f"{counted(done.discarded, 'change')} of {args.name} discarded{and_lines}; it is cancelled")


def _stage(name: str, far: Cancelled, pending: int) -> Stage:
    wire = f"{counted(far.on_the_wire, 'change')} on the wire; what comes of it decides" if far.on_the_wire else ""
    total = max(pending, far.discarded)
    return Stage(
        name=name,
        done=far.discarded,
        total=total,
        said=f"{far.discarded:,} of {counted(total, 'change')} discarded",
        besides=wire,
    )


# -- naming ------------------------------------------------------------------------------------------------------------


async def _named(connections: asyncpg.Pool, name: str) -> list[Backfill]:
    if found := await backfills(connections, name):
        return found
    names = list(dict.fromkeys(one.name for one in await backfills(connections)))
    more = f" and {len(names) - NAMES_SAID} more" if len(names) > NAMES_SAID else ""
    there_are = f"there are {', '.join(names[:NAMES_SAID])}{more}" if names else "none was loaded"
    raise UsageError(f"backfill: none is called {name}; {there_are}")


def _state(found: Sequence[Backfill]) -> State:
    """Of all its accounts: what there is most to say about."""
    states = {one.state for one in found}
    worst: tuple[State, ...] = ("cancelled", "loading", "working")
    return next((state for state in worst if state in states), "done")


def _row(one: Backfill) -> tuple[object, ...]:
    return (
        one.name,
        one.account,
        one.state,
        local_time(one.started_at),
        one.started_by,
        one.lines,
        one.synced,
        one.pending,
        one.parked,
        one.given_up,
        one.left_out,
    )


def _as_json(one: Backfill) -> dict[str, Any]:
    return asdict(one) | {"synced": one.synced, "given_up": one.given_up, "state": one.state}
