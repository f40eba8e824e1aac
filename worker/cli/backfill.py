"""`caspen-sync backfill FILE`: read, accept, load, and wait."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import shlex
from collections.abc import Awaitable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import asyncpg

from worker.backfill.census import Census
from worker.backfill.estimate import estimate
from worker.backfill.examining import Examined, examine
from worker.backfill.known import known_lines
from worker.backfill.loading import Loaded, Loader
from worker.backfill.query import QuerySource
from worker.backfill.rejects import Rejects
from worker.backfill.rows import Batch
from worker.backfill.sources import Asked, FileSource, source_from
from worker.backfill.staging import Accepted, Staging
from worker.backfill.tally import Counted
from worker.byhand import whoami
from worker.cli import estimated
from worker.cli.bar import Stage, shown
from worker.cli.dryreport import problem_lines
from worker.cli.dryrun import DUPLICATES_NAMED, dry_run, most_folded
from worker.cli.interrupts import Interrupted, Interrupts, interrupts
from worker.cli.messages import complain
from worker.cli.output import print_line
from worker.cli.reading import reading_line
from worker.cli.settings import quieter, settings_from
from worker.cli.terminal import whoever_reads
from worker.cli.waiting import wait_for
from worker.config import Settings
from worker.database import pool
from worker.errors import DATABASE_FAULTS, ExitCode, UsageError
from worker.migrate import require_current_schema
from worker.threads import DetachedThreads
from worker.token import account_token
from worker.words import counted

T = TypeVar("T")
AnySource = FileSource | QuerySource

# One connection loads, one wakes.
POOL_SIZE = 2
NAME_MAX_LENGTH = 200


def run(args: argparse.Namespace) -> int:
    """Loads, and unless told not to, works it off."""
    settings = quieter(settings_from(args), args)
    _check_options(args)
    source = source_from(_asked(args), settings)
    name = args.name or source.name
    _check_name(name)
    if args.dry_run:
        return asyncio.run(_with_threads(_dry_run(source, settings, args, name)))
    return asyncio.run(_with_threads(_load_and_wait(source, settings, args, name)))


async def _with_threads(work: Awaitable[T]) -> T:
    """What the work returns. A thread that waits for standard input holds up nobody's end."""
    asyncio.get_running_loop().set_default_executor(DetachedThreads())
    return await work


async def _dry_run(source: AnySource, settings: Settings, args: argparse.Namespace, name: str) -> int:
    looking = dry_run(source, settings, name=name, as_of=args.as_of, problems=args.problems, as_json=args.json)
    try:
        with interrupts() as interrupted:
            return await interrupted.ends(looking, f"{name}: interrupted; nothing was written")
    except Interrupted as why:
        complain(str(why))
        return ExitCode.WORK_LEFT


async def _load_and_wait(source: AnySource, settings: Settings, args: argparse.Namespace, name: str) -> int:
    try:
        rejected, accounts = await _load(source, settings, args, name)
    except Interrupted as interrupted:
        complain(str(interrupted))
        return ExitCode.WORK_LEFT
    except _Invalid:
        return ExitCode.PARKED
    ended = ExitCode.OK
    if accounts and args.wait:
        ended = await wait_for(settings, name, accounts)
    elif accounts:
        _say(f"{name}: left to the service; caspen-sync backfill status {shlex.quote(name)}")
    return ended or (ExitCode.PARKED if rejected else ExitCode.OK)


class _Invalid(Exception):
    """Lines are no valid changes, which has been said, and so nothing is loaded."""


async def _load(
    source: AnySource, settings: Settings, args: argparse.Namespace, name: str
) -> tuple[int, Collection[str]]:
    """How many lines were rejected, and the accounts that the backfill has."""
    with interrupts() as interrupted:
        async with pool(settings.database, max_size=POOL_SIZE) as connections:
            staging, examined, found = await interrupted.ends(
                _take_in(source, settings, args, name, connections),
                f"{name}: interrupted before anything of it was loaded",
            )
            _say_loaded(name, await _move(connections, staging, found, interrupted))
            return examined.rejected, staging.accounts


async def _take_in(
    source: AnySource, settings: Settings, args: argparse.Namespace, name: str, connections: asyncpg.Pool
) -> tuple[Staging, Examined, Accepted]:
    """Reads all lines and accepts them, or leaves nothing behind."""
    await require_current_schema(connections)
    staging = await Staging.begin(
        connections, name=name, accounts=sorted(settings.accounts), who=whoami(), as_of=args.as_of
    )
    accepted = False
    rejects = Rejects(source, name=name, path=args.rejects)
    try:
        examined, all_of_it = await _read(source, settings, args, staging, rejects, connections)
        if examined.rejected:
            _say_rejected(name, examined, rejects, args)
        if args.wait:
            # Whoever has no token hears of it now, and not when all is loaded.
            for account in staging.accounts:
                account_token(account, settings.accounts[account])
        found = await staging.accept()
        accepted = True
    finally:
        try:
            rejects.drop()
        finally:
            if not accepted:
                with contextlib.suppress(*DATABASE_FAULTS):  # the next run does it, then
                    await staging.abandon()
    await _say_accepted(name, examined, all_of_it, settings, connections, at_most=args.as_of is not None)
    if (earlier := found.unloaded - (all_of_it.lines - all_of_it.known)) > 0:
        _say(f"{name}: {counted(earlier, 'line')} of an earlier run {'is' if earlier == 1 else 'are'} loaded besides")
    return staging, examined, found


async def _read(
    source: AnySource,
    settings: Settings,
    args: argparse.Namespace,
    staging: Staging,
    rejects: Rejects,
    connections: asyncpg.Pool,
) -> tuple[Examined, Counted]:
    """Stages the valid lines, until one is invalid that is not to be skipped: from there on it looks for problems."""
    all_valid = True

    async def on_batch(batch: Batch) -> None:
        nonlocal all_valid
        all_valid = all_valid and not batch.rejects
        if args.skip_invalid:
            rejects.add(batch.rejects)
        if all_valid or args.skip_invalid:
            await staging.stage(batch.rows)

    with Census(most_folded=most_folded(settings)) as census, reading_line() as show:
        async for lines in known_lines(connections, staging.name, staging.accounts):
            census.know(lines)
        examined = await examine(source, census, on_batch=on_batch, problems=args.problems, show=show)
        return examined, await census.counted(duplicates=DUPLICATES_NAMED)


def _say_rejected(name: str, examined: Examined, rejects: Rejects, args: argparse.Namespace) -> None:
    """Raises _Invalid unless they are skipped; then they are in a file by now."""
    for line in problem_lines(examined):
        complain(line)
    what = f"{examined.rejected:,} of {counted(examined.lines, 'line')} {'is' if examined.rejected == 1 else 'are'}"
    if not args.skip_invalid:
        complain(f"{name}: {what} no valid change, so nothing is loaded; mend them, or load the others: --skip-invalid")
        raise _Invalid
    place = rejects.keep()
    back = _back(place, name, args)
    complain(f"{name}: {what} no valid change, and left apart in {place}; mend them there, and give them back: {back}")


def _back(place: Path | None, name: str, args: argparse.Namespace) -> str:
    """The command that gives rejects back, with all that the source was read by."""
    words = ["caspen-sync", "backfill", str(place), "--name", name]
    for option, usual in (("encoding", "utf-8"), ("delimiter", ","), ("null", "NULL"), ("account", None)):
        if (said := getattr(args, option)) != usual:
            words += [f"--{option}", said]
    if args.as_of is not None:
        words += ["--as-of", args.as_of.isoformat(timespec="seconds")]
    return shlex.join(words)


async def _say_accepted(
    name: str,
    examined: Examined,
    all_of_it: Counted,
    settings: Settings,
    connections: asyncpg.Pool,
    *,
    at_most: bool,
) -> None:
    """`at_most`: newer changes may have set some of it."""
    if not examined.valid:
        _say(f"{name}: there are no lines to load")
        return
    known = f" ({all_of_it.known:,} of them are loaded already)" if all_of_it.known else ""
    if all_of_it.known == examined.valid:
        known = ", all of which are loaded already"
    what = f"{counted(examined.valid, 'line')}{known}, {counted(all_of_it.appointments, 'appointment')}"
    expected = await estimate(connections, all_of_it.requests, settings.accounts)
    requests = f"{'at most ' if at_most else ''}{counted(expected.requests, 'request')}"
    when = f", {requests}: {estimated.when(expected)}" if expected.requests else ""
    _say(f"{name}: {what}{when}")
    for pause in estimated.pauses(expected):
        _say(pause)


async def _move(connections: asyncpg.Pool, staging: Staging, found: Accepted, interrupted: Interrupts) -> Loaded:
    loader = Loader(connections, name=staging.name, token=staging.token, accounts=staging.accounts)
    with shown() as show:

        def look_on(loaded: Loaded) -> None:
            if found.unloaded:
                show(_stage(staging.name, loaded, found.unloaded))

        loaded = await interrupted.ends(
            loader.load(interrupted.stopping, look_on),
            f"{staging.name}: interrupted while it was loaded; what is loaded is sent",
            itself=True,
        )
    if loaded.lines < found.unloaded and interrupted.stopping.is_set():
        raise Interrupted(
            f"{staging.name}: interrupted; what is loaded will be sent, and the same command again loads the other "
            f"{counted(found.unloaded - loaded.lines, 'line')}"
        )
    return loaded


def _stage(name: str, loaded: Loaded, total: int) -> Stage:
    waiting = (
        "waiting for a transaction that has written a change of the next line's appointment" if loaded.waiting else ""
    )
    return Stage(
        name=name,
        done=loaded.lines,
        total=total,
        said=f"{loaded.lines:,} of {counted(total, 'line')} loaded",
        besides=waiting,
    )


def _say_loaded(name: str, loaded: Loaded) -> None:
    if loaded.left_out:
        _say(
            f"{name}: newer changes have set some of it: {counted(loaded.left_out, 'line')} without some fields, of "
            f"which {loaded.outdated:,} with nothing to send; "
            f"caspen-sync backfill status {shlex.quote(name)} --left-out"
        )


def _say(text: str) -> None:
    with whoever_reads():
        print_line(text)


def _asked(args: argparse.Namespace) -> Asked:
    """Each of its fields is an option of the same name."""
    return Asked(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Asked)})


def _check_options(args: argparse.Namespace) -> None:
    if args.rejects is not None and not args.skip_invalid:
        raise UsageError("backfill: --rejects goes with --skip-invalid")
    if args.json and not args.dry_run:
        raise UsageError("backfill: --json goes with --dry-run; for what is loaded: backfill status NAME --json")
    if args.as_of is not None and args.as_of > datetime.now(UTC):
        raise UsageError("backfill: --as-of is in the future; it says how old the data is")


def _check_name(name: str) -> None:
    if not name.isprintable() or len(name) > NAME_MAX_LENGTH or name.startswith("-"):
        raise UsageError(
            f"backfill: --name is at most {NAME_MAX_LENGTH} printable characters, the first no -; this one is not"
        )
