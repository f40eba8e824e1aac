"""An auditor that knows nothing of the worker's code: it reads the sandbox's log and the tables, and judges."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from tests.support.database import Database
from worker.sandbox import Appointments, Entry


def most_in_any_window(times: Iterable[float], window_s: float) -> int:
    """The most requests that a rolling window saw; a fixed window never sees more."""
    ordered = sorted(times)
    most = first = 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """How much of what rule 4 allows was used while a backlog stood."""

    requests: int
    cycle_s: float
    """Mean time after which a slot was used again."""
    best_s: float
    """Window, guard and mean answer time: the least that slots allow."""

    @property
    def share(self) -> float:
        return self.best_s / self.cycle_s


def budget_use(log: Sequence[Entry], *, limit: int, window_s: float, guard_s: float) -> BudgetUse:
    """The n-th request and the (n + limit)-th use the same slot, so the time between them is a slot's cycle."""
    done = sorted((entry for entry in log if entry.answered_at is not None), key=lambda entry: entry.received_at)
    times = [entry.received_at for entry in done]
    cycles = (len(times) - 1) // limit
    assert cycles >= 2, f"{len(times)} requests are too few to judge"
    answer_s = sum(entry.answered_at - entry.received_at for entry in done if entry.answered_at) / len(done)
    cycle_s = (times[cycles * limit] - times[0]) / cycles
    return BudgetUse(requests=len(times), cycle_s=cycle_s, best_s=window_s + guard_s + answer_s)


def assert_no_overlap(log: Iterable[Entry]) -> None:
    """Rule 2: for one appointment, requests never overlap."""
    by_appointment: dict[str | None, list[Entry]] = defaultdict(list)
    for entry in log:
        by_appointment[entry.appointment].append(entry)
    for appointment, entries in by_appointment.items():
        entries.sort(key=lambda entry: entry.received_at)
        for earlier, later in itertools.pairwise(entries):
            over_at = max(earlier.answered_at or float("inf"), earlier.applied_at or 0.0)
            assert over_at <= later.received_at, f"{appointment}: {later.seq} began before {earlier.seq} was over"


def assert_id_order(log: Iterable[Entry]) -> None:
    """Rule 2: requests go out in id order. The notes number an appointment's changes in the order of their commits."""
    newest: dict[str | None, int] = defaultdict(int)
    for entry in sorted(log, key=lambda entry: entry.received_at):
        note = (entry.body or {}).get("note")
        if isinstance(note, str) and note.startswith("change "):
            number = int(note.removeprefix("change "))
            assert number >= newest[entry.appointment], f"{entry.appointment}: {number} went out after a newer change"
            newest[entry.appointment] = number


async def assert_final_state(database: Database, appointments: Appointments) -> None:
    """Rule 3: each remote field holds its last committed change that was not parked or discarded; and so does the
    synced state."""
    expected: dict[str, dict[str, Any]] = defaultdict(dict)
    newest: dict[str, int] = {}
    for row in await database.rows(
        "SELECT id, appointment_id, changes FROM caspen_sync.outbox WHERE state = 'synced' ORDER BY id"
    ):
        expected[row["appointment_id"]].update(json.loads(row["changes"]))
        newest[row["appointment_id"]] = row["id"]
    synced = await assert_holds(database, appointments, expected)
    assert {appointment_id: row["last_change_id"] for appointment_id, row in synced.items()} == newest


async def assert_holds(
    database: Database, appointments: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]
) -> dict[str, asyncpg.Record]:
    """The API and the synced state, which is returned, hold these fields of these appointments, and of no others."""
    synced = {row["appointment_id"]: row for row in await database.rows("SELECT * FROM caspen_sync.appointment")}
    assert set(synced) == set(expected)
    for appointment_id, fields in expected.items():
        remote = appointments[appointment_id]
        local = synced[appointment_id]
        for field, value in fields.items():
            assert same(remote[field], value), f"{appointment_id}.{field}: {remote[field]!r}, not {value!r}"
            assert same(local[field], value), f"synced state of {appointment_id}.{field}"
    return synced


def same(held: Any, written: Any) -> bool:
    """Whether the API, or the synced state, holds what was written."""
    if isinstance(held, datetime):
        return isinstance(written, str) and held == datetime.fromisoformat(written)
    if isinstance(held, str) and isinstance(written, str) and held != written:
        try:
            return datetime.fromisoformat(held) == datetime.fromisoformat(written)
        except ValueError:
            return False
    if isinstance(held, list):
        return [str(item) for item in written] == held
    if isinstance(held, str) and isinstance(written, int):
        return held == str(written)
    return bool(held == written)


async def assert_settled(database: Database) -> None:
    """Rule 1, after a drain: nothing pending, nothing leased, nothing due, nothing that was not taken in."""
    states = await database.states()
    assert set(states) <= {"synced", "parked", "discarded"}, states
    assert await database.value("SELECT count(*) FROM caspen_sync.queue WHERE due_at < 'infinity'") == 0
    assert await database.value("SELECT count(*) FROM caspen_sync.queue WHERE leased_until IS NOT NULL") == 0
    assert await database.value("SELECT count(*) FROM caspen_sync.arrival") == 0


async def assert_accounted_for(database: Database, log: Iterable[Entry], *, since_s: float = 0.0) -> None:
    """Rule 6: whatever is synced stands in an attempt that was accepted, and every attempt was a request. `since_s`:
    only what was synced since, in Unix time."""
    unaccounted = await database.rows(
        """
        SELECT o.id FROM caspen_sync.outbox o
        WHERE o.state = 'synced' AND o.finished_at >= to_timestamp($1) AND NOT EXISTS (
            SELECT FROM caspen_sync.attempt t
            WHERE t.account = o.account AND t.appointment_id = o.appointment_id
              AND t.outcome = 'synced' AND o.id = ANY (t.change_ids))
        """,
        since_s,
    )
    assert unaccounted == []
    attempts = await database.value("SELECT count(*) FROM caspen_sync.attempt")
    assert attempts <= len(list(log))
