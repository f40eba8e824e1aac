"""Files of backfills whose every line is known, and what must have come of them."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support import canary
from tests.support.changes import made_up_change
from tests.support.database import Database
from worker.sandbox import Appointments, Entry


@dataclass(frozen=True, slots=True)
class Line:
    """What one line says."""

    account: str
    appointment_id: str
    changes: Mapping[str, Any]


def year(
    chance: random.Random,
    *,
    appointments: int,
    changes: int,
    duplicates: float = 0.0,
    accounts: Sequence[str] = ("default",),
) -> list[Line]:
    """So many changes for each appointment, those of all appointments in between each other; some lines come once more
    somewhere later. Each appointment is of one account."""
    lines = [
        Line(accounts[number % len(accounts)], f"app_{number:05}", made_up_change(chance, nth))
        for number, nth in itertools.product(range(appointments), range(1, changes + 1))
    ]
    lines += chance.sample(lines, int(len(lines) * duplicates))
    chance.shuffle(lines)
    canary.sing([line.changes for line in lines])
    return lines


# -- how they are written ----------------------------------------------------------------------------------------------


def as_jsonl(lines: Iterable[Line]) -> bytes:
    """`account` stands where it is not the default one."""
    return "".join(json.dumps(_object(line)) + "\n" for line in lines).encode()


def as_gzip(lines: Iterable[Line]) -> bytes:
    return gzip.compress(as_jsonl(lines))


def as_csv(lines: Iterable[Line]) -> bytes:
    fields = ("note", "room_id", "confirmed", "resource_ids")
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["account", "appointment_id", *fields])
    for line in lines:
        cells = [_cell(line.changes[field]) if field in line.changes else "" for field in fields]
        writer.writerow([line.account, line.appointment_id, *cells])
    return out.getvalue().encode()


def _object(line: Line) -> dict[str, Any]:
    account = {} if line.account == "default" else {"account": line.account}
    return account | {"appointment_id": line.appointment_id, "changes": line.changes}


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    return ";".join(map(str, value)) if isinstance(value, list) else str(value)


# -- what must have come of them ---------------------------------------------------------------------------------------


async def assert_loaded_once(database: Database, name: str, lines: Sequence[Line]) -> None:
    """Each line is a change in the outbox exactly once, of equal lines each, and those of one appointment have ids in
    the order of the file. Nothing else is there, nor a line that was read and not accepted."""
    written: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in await database.rows(
        "SELECT account, appointment_id, changes FROM caspen_sync.outbox WHERE source = $1 ORDER BY id", name
    ):
        written[row["account"], row["appointment_id"]].append(json.loads(row["changes"]))
    expected: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        expected[line.account, line.appointment_id].append(line.changes)
    assert written == expected
    (counted,) = await database.rows(
        "SELECT sum(lines)::int AS lines, sum(loaded)::int AS loaded,"
        " (SELECT count(*) FROM caspen_sync.backfill_line)::int AS kept, bool_and(loaded_at IS NOT NULL) AS whole"
        " FROM caspen_sync.backfill WHERE name = $1",
        name,
    )
    assert tuple(counted) == (len(lines), len(lines), len(lines), True)


def assert_folded(appointments: Appointments, lines: Iterable[Line]) -> None:
    """The API holds the fold of the file."""
    folds: dict[str, dict[str, Any]] = defaultdict(dict)
    for line in lines:
        folds[line.appointment_id].update(line.changes)
    for appointment, fold in folds.items():
        held = appointments[appointment]
        for field, value in fold.items():
            said = list(map(str, value)) if isinstance(value, list) else value
            # Ids are strings in what the API answers.
            assert held[field] in (said, str(said)), f"{appointment}.{field}: {held[field]!r}, not {value!r}"


async def assert_sent_in_order(database: Database, log: Sequence[Entry]) -> None:
    """No request began with an older change than an earlier request of its appointment."""
    oldest: dict[tuple[str, str], int] = defaultdict(int)
    attempts = await database.rows(
        "SELECT account, appointment_id, change_ids[1] AS first FROM caspen_sync.attempt ORDER BY started_at, id"
    )
    for row in attempts:
        key = row["account"], row["appointment_id"]
        assert row["first"] >= oldest[key], f"{key}: {row['first']} went out after {oldest[key]}"
        oldest[key] = row["first"]
    assert len(attempts) <= len(log)
