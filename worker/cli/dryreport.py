"""What a dry run of a backfill found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from worker import privacy
from worker.backfill.estimate import Estimate
from worker.backfill.examining import Examined
from worker.backfill.tally import Counted
from worker.cli import estimated
from worker.cli.output import Colour, local_time, painter, print_line, print_table
from worker.errors import CaspenSyncError
from worker.words import counted

# Of a file of the wrong kind, there may be a thousand.
FIELDS_NAMED = 10
# What only the database can tell.
UNKNOWN = {"known": None, "left_out": None, "outdated": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """All of it."""

    name: str
    as_of: datetime | None
    """None: not asked for, so nothing is newer."""
    examined: Examined
    counted: Counted
    estimate: Estimate
    unloaded: int
    """Lines of earlier runs that are accepted and not loaded yet."""
    fault: CaspenSyncError | None
    """Why the database could not be asked: what is loaded already, and what newer changes have set, is unknown then."""


def print_report(found: DryRun) -> None:
    """At a glance: first what would be done and when, then what is wrong, then the figures."""
    print(painter()(privacy.printable(sentence(found)), _colour(found)))
    _print_part(problem_lines(found.examined))
    _print_part(_remarks(found))
    if found.counted.fields:
        print()
        print_table(
            ("FIELD", "SET", "CLEARED"),
            [(name, f"{count.set:,}", f"{count.cleared:,}") for name, count in found.counted.fields.items()],
        )
    if len(found.estimate.accounts) > 1:
        print()
        print_table(estimated.HEADER, estimated.rows(found.estimate))


def sentence(found: DryRun) -> str:
    """What would be done and when it would be done, without a full stop."""
    examined, all_of_it = found.examined, found.counted
    if not examined.lines:
        return f"{found.name}: there are no lines"
    new = all_of_it.lines - all_of_it.known
    what = f"{counted(new, 'line')} would be loaded"
    if all_of_it.known:
        what = f"{all_of_it.known:,} are loaded already, the other {new:,} would be added"
        if not new:
            what = "all of them are loaded already, nothing would be added"
    if examined.rejected:
        verb = "is no valid change" if examined.rejected == 1 else "are no valid changes"
        invalid = f"{examined.rejected:,} of {counted(examined.lines, 'line')} {verb}"
        if not all_of_it.lines:
            return f"{found.name}: {invalid}; nothing would be loaded"
        what = f"{invalid}, so nothing would be loaded; with --skip-invalid {what}"
    elif all_of_it.known:
        what = f"of {counted(all_of_it.lines, 'line')} {what}"
    requests = found.estimate.requests
    if not new:
        return f"{found.name}: {what}"
    if not requests:
        return f"{found.name}: {what} and nothing sent: newer changes have set all of it"
    return f"{found.name}: {what} and take {counted(requests, 'request')}: {estimated.when(found.estimate)}"


def as_object(found: DryRun) -> dict[str, Any]:
    """For programs."""
    examined, all_of_it, expected = found.examined, found.counted, found.estimate
    known = found.fault is None
    return {
        "name": found.name,
        "as_of": found.as_of,
        "lines": examined.lines,
        "valid": examined.valid,
        "invalid": examined.rejected,
        "problems": examined.problems,
        "problems_by_field": examined.problems_by_field,
        "first_problems": examined.first_problems,
        "duplicates": all_of_it.duplicates,
        "first_duplicates": all_of_it.first_duplicates,
        "known": all_of_it.known if known else None,
        "unloaded": found.unloaded if known else None,
        "left_out": all_of_it.left_out if known else None,
        "outdated": all_of_it.outdated if known else None,
        "appointments": all_of_it.appointments,
        "requests": expected.requests,
        "fields": all_of_it.fields,
        "ahead": expected.ahead,
        "seconds": expected.seconds,
        "done_at": expected.done_at,
        "accounts": [
            asdict(lines) | asdict(time) | ({} if known else UNKNOWN)
            for lines, time in zip(all_of_it.accounts, expected.accounts, strict=True)
        ],
        "database": None if known else privacy.redacted(str(found.fault)),
    }


def _colour(found: DryRun) -> Colour:
    if found.examined.rejected:
        return "red"
    return "yellow" if found.fault or found.estimate.seconds is None else "green"


def _print_part(lines: Iterator[str]) -> None:
    """After an empty line, if there are any."""
    for number, line in enumerate(lines):
        if not number:
            print()
        print_line(line)


def problem_lines(examined: Examined) -> Iterator[str]:
    """The first problems, and how many more there are."""
    if not examined.problems:
        return
    for one in examined.first_problems:
        yield f"line {one.line}: {one.field}: {one.reason}"
    if more := examined.problems - len(examined.first_problems):
        lines = examined.rejected - len({one.line for one in examined.first_problems})
        and_more = "and " if examined.first_problems else ""
        where = f" in {counted(lines, 'more line' if and_more else 'line')}" if lines else ""
        yield f"{and_more}{counted(more, 'more problem' if and_more else 'problem')}{where}"
        by_field = list(examined.problems_by_field.items())
        named = ", ".join(f"{field} {number:,}" for field, number in by_field[:FIELDS_NAMED])
        rest = f", and {counted(len(by_field) - FIELDS_NAMED, 'more field')}" if len(by_field) > FIELDS_NAMED else ""
        yield f"by field: {named}{rest}"


def _remarks(found: DryRun) -> Iterator[str]:
    all_of_it = found.counted
    if all_of_it.lines:
        yield f"{counted(all_of_it.lines, 'valid line')}, {counted(all_of_it.appointments, 'appointment')}"
    if all_of_it.duplicates:
        named = ", ".join(f"{one.line} says what {one.first} says" for one in all_of_it.first_duplicates)
        verb = "repeats" if all_of_it.duplicates == 1 else "repeat"
        more = ", …" if all_of_it.duplicates > len(all_of_it.first_duplicates) else ""
        yield f"{counted(all_of_it.duplicates, 'line')} {verb} an earlier one: {named}{more}"
    if found.fault:
        yield "the database could not be asked: what is loaded already is not known, and the time is as configured"
    elif found.as_of is not None:
        yield _left_out(all_of_it, found.as_of)
    if found.unloaded:
        verb = "is" if found.unloaded == 1 else "are"
        lines = f"{counted(found.unloaded, 'line')} of an earlier run {verb} accepted and not loaded yet"
        yield f"{lines}: they would be loaded too, and what of them is not here comes on top"
    if found.estimate.requests:
        yield from estimated.remarks(found.estimate)


def _left_out(all_of_it: Counted, as_of: datetime) -> str:
    since = local_time(as_of)
    if not all_of_it.left_out + all_of_it.outdated:
        return f"no change newer than {since} has set any of it"
    parts = []
    if all_of_it.left_out:
        parts.append(f"{counted(all_of_it.left_out, 'line')} would lose fields")
    if all_of_it.outdated:
        parts.append(f"{counted(all_of_it.outdated, 'line')} would not be sent at all")
    return f"changes newer than {since} have set some of it: {', '.join(parts)}"
