"""`caspen-sync parked`: the refused changes, and what a person does to them."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

import asyncpg

from worker.byhand import By, whoami
from worker.cli.asking import confirmed
from worker.cli.attempts import print_attempts
from worker.cli.body import ask_for_body
from worker.cli.output import local_time, print_json, print_line, print_table
from worker.cli.settings import settings_from
from worker.config import Settings
from worker.database import connection
from worker.errors import ExitCode, UsageError
from worker.history import attempts, interventions
from worker.migrate import require_current_schema
from worker.parked import Filter, ParkedChange, Retried, contents, discard, edit, find, find_all, retry
from worker.words import counted

SHOWN_ATTEMPTS = 20

Action = Callable[[asyncpg.Connection, argparse.Namespace, Settings], Awaitable[None]]


def run(args: argparse.Namespace) -> int:
    """Runs one of the subcommands."""
    actions: dict[str, Action] = {"list": _list, "show": _show, "retry": _retry, "discard": _discard, "edit": _edit}
    settings = settings_from(args)
    asyncio.run(_with_connection(actions[args.action], args, settings))
    return ExitCode.OK


async def _with_connection(action: Action, args: argparse.Namespace, settings: Settings) -> None:
    async with connection(settings.database) as conn:
        await require_current_schema(conn)
        await action(conn, args, settings)


# -- looking -----------------------------------------------------------------------------------------------------------


async def _list(conn: asyncpg.Connection, args: argparse.Namespace, _: Settings) -> None:
    found = await find(conn, _filter(args), limit=args.limit)
    if args.json:
        print_json([_as_json(change) for change in found])
        return
    if not found:
        print("no change is parked" + (" that matches" if _is_filtered(args) else ""))
        return
    print_table(
        ("ID", "ACCOUNT", "APPOINTMENT", "PARKED", "ATTEMPTS", "FIELDS", "ERROR"),
        [
            (
                change.id,
                change.account,
                change.appointment_id,
                local_time(change.parked_at),
                change.attempts,
                ",".join(change.fields),
                change.error,
            )
            for change in found
        ],
    )
    if args.limit is not None and len(found) == args.limit:
        print(f"the first {args.limit}; --limit N shows more")


async def _show(conn: asyncpg.Connection, args: argparse.Namespace, _: Settings) -> None:
    (change,) = await find_all(conn, [args.id], account=args.account)
    said = await contents(conn, change.account, change.id)
    made = await attempts(
        conn, change.appointment_id, account=change.account, change_id=change.id, limit=SHOWN_ATTEMPTS
    )
    done = await interventions(conn, change.account, change.id)
    if args.json:
        print_json(
            _as_json(change)
            | {"changes": said.changes, "messages": said.messages, "attempt_log": made, "interventions": done}
        )
        return
    appointment = f"appointment {change.appointment_id}, account {change.account}, {change.lane} lane"
    print_line(f"change {change.id} of {appointment}")
    print_line(f"written {local_time(change.created_at)}" + (f" by {change.source}" if change.source else ""))
    print_line(f"parked  {local_time(change.parked_at)}, {counted(change.attempts, 'attempt')}: {change.error}")
    print("\nit says")
    if isinstance(said.changes, str):
        print_line(said.changes)
    else:
        print_json(said.changes)
    if change.superseded:
        print_line(f"newer changes have set {', '.join(change.superseded)} since: a retry leaves that out")
    if said.messages:
        print("\nthe API said")
        _print_messages(said.messages)
    if made:
        print(f"\nthe newest {SHOWN_ATTEMPTS} requests" if len(made) == SHOWN_ATTEMPTS else "\nrequests")
        print_attempts(made)
    for one in done:
        reason = f": {one.reason}" if one.reason else ""
        print_line(f"{local_time(one.at)}  {one.action} by {one.who}{reason}")


def _print_messages(messages: object) -> None:
    if not isinstance(messages, dict):
        return
    if messages.get("message"):
        print_line(f"  {messages['message']}")
    for name, texts in (messages.get("errors") or {}).items():
        for text in texts:
            print_line(f"  {name}: {text}")


# -- doing -------------------------------------------------------------------------------------------------------------


async def _retry(conn: asyncpg.Connection, args: argparse.Namespace, _: Settings) -> None:
    found = await _selected(conn, args)
    if args.dry_run:
        for change in found:
            print_line(_would_retry(change))
        outdated = sum(change.outdated for change in found)
        rest = f", {outdated} discarded, of which nothing is left" if outdated else ""
        print(f"{counted(len(found) - outdated, 'change')} would be sent again{rest}; nothing was changed")
        return
    if not found or not _confirmed(args, "retry", len(found)):
        print("nothing was changed")
        return
    done = await retry(conn, found, By(who=whoami(), reason=args.reason))
    for one in done:
        if one.left_out or len(done) == 1:
            print_line(_retried(one))
    if len(done) != 1 or len(found) != 1:
        _summarise(done, len(found))


async def _discard(conn: asyncpg.Connection, args: argparse.Namespace, _: Settings) -> None:
    found = await _selected(conn, args)
    if args.dry_run:
        for change in found:
            print_line(f"change {change.id} of {change.appointment_id} ({', '.join(change.fields)}): {change.error}")
        print(f"{counted(len(found), 'change')} would be discarded; nothing was changed")
        return
    if not found or not _confirmed(args, "discard", len(found)):
        print("nothing was changed")
        return
    done = await discard(conn, found, By(who=whoami(), reason=args.reason))
    print(f"{counted(done, 'change')} discarded{_others(len(found) - done)}")


async def _edit(conn: asyncpg.Connection, args: argparse.Namespace, settings: Settings) -> None:
    (change,) = await find_all(conn, [args.id], account=args.account)
    before = (await contents(conn, change.account, change.id)).changes
    body = ask_for_body(args.file, before)
    if body == before:
        print("it says the same as before; nothing was changed; caspen-sync parked retry sends it again as it is")
        return
    print_line(_retried(await edit(conn, change, body, By(who=whoami(), reason=args.reason), settings.api)))


async def _selected(conn: asyncpg.Connection, args: argparse.Namespace) -> list[ParkedChange]:
    if args.ids:
        if args.all or args.appointment or args.since or args.error:
            raise UsageError(f"parked {args.action}: give ids or a filter, not both")
        return await find_all(conn, args.ids, account=args.account)
    if not (args.all or _is_filtered(args)):
        raise UsageError(f"parked {args.action}: which ones? Give ids, a filter such as --appointment, or --all")
    return await find(conn, _filter(args))


def _confirmed(args: argparse.Namespace, verb: str, count: int) -> bool:
    if args.yes or (args.ids and count == 1):
        return True
    return confirmed(f"{verb} {counted(count, 'parked change')}", count)


def _retried(one: Retried) -> str:
    left_out = ", ".join(one.left_out)
    if one.discarded:
        return f"change {one.id}: newer changes have set {left_out} since; nothing is left to send, so it is discarded"
    rest = f", without {left_out}, which newer changes have set since" if left_out else ""
    return f"change {one.id} is pending again, at its old place{rest}"


def _would_retry(change: ParkedChange) -> str:
    what = f"change {change.id} of {change.appointment_id}"
    if change.outdated:
        return f"{what}: newer changes have set {', '.join(change.superseded)} since; it would be discarded"
    if change.superseded:
        return f"{what}: without {', '.join(change.superseded)}, which newer changes have set since"
    return f"{what}: {', '.join(change.fields)}"


def _summarise(done: Sequence[Retried], wanted: int) -> None:
    discarded = sum(one.discarded for one in done)
    text = f"{counted(len(done) - discarded, 'change')} pending again"
    if discarded:
        text += f", {discarded} discarded, of which nothing was left"
    print(text + _others(wanted - len(done)))


def _others(count: int) -> str:
    return f"; somebody else dealt with {counted(count, 'change')} meanwhile" if count else ""


def _filter(args: argparse.Namespace) -> Filter:
    return Filter(account=args.account, appointment_id=args.appointment, since=args.since, error=args.error)


def _is_filtered(args: argparse.Namespace) -> bool:
    return any(value is not None for value in (args.account, args.appointment, args.since, args.error))


def _as_json(change: ParkedChange) -> dict[str, object]:
    return asdict(change)
