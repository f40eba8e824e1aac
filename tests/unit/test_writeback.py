"""Writing back without a database: what becomes of an answer that Postgres cannot hold, and of those beside it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.support.settlements import LIMITS, RETRY, claim, notes, sent, synced
from worker.claims import Settlement, Written
from worker.metrics import Metrics
from worker.outcome import Outcome
from worker.policy import settle
from worker.pulse import Pulse
from worker.store import Store
from worker.telemetry import log
from worker.writeback import STORE_ATTEMPTS, STORE_BASE_S, Tally, WriteBack

BAD = "app_bad"
REASON = "accepted, but the answer cannot be stored in Postgres"


@dataclass
class Table:
    """Stands in for the store: holds all but an answer of one appointment."""

    error: Exception = field(default_factory=lambda: asyncpg.UntranslatableCharacterError("a NUL"))
    written: list[Settlement] = field(default_factory=list)

    async def settle(self, settlements: Sequence[Settlement], rest_s: Mapping[str, float]) -> Written:
        assert rest_s == {"default": 60.5}
        if any(one.claim.appointment_id == BAD and (one.answer or RETRY.reason in _errors(one)) for one in settlements):
            raise self.error
        self.written += settlements
        return Written(due=tuple(settlements))


def _errors(settlement: Settlement) -> set[str | None]:
    return {verdict.error for verdict in settlement.verdicts}


def settlement(appointment_id: str, outcome: Outcome, *, failures: int = 0) -> Settlement:
    held = replace(claim(notes(1, 2), failures=failures), appointment_id=appointment_id)
    return settle(held, held.changes, sent(outcome), LIMITS, random.Random(1))


async def written(table: Table, *settlements: Settlement) -> tuple[Tally, list[tuple[Sequence[Settlement], Written]]]:
    """What a run has done once these, which came together, are written."""
    heard: list[tuple[Sequence[Settlement], Written]] = []
    tally = Tally()
    writer = WriteBack(
        cast(Store, table),
        rest_s={"default": 60.5},
        settled=lambda batch, done: heard.append((batch, done)),
        give_up=lambda _: True,
        tally=tally,
        metrics=Metrics(),
        pulse=Pulse(),
        log=log(),
    )
    for one in settlements:
        writer.put(lambda one=one: one)  # type: ignore[misc]
    writer.close()
    await writer.run()
    return tally, heard


async def test_an_answer_that_cannot_be_held_does_not_hold_up_the_others() -> None:
    """They are written as they are; it is asked for again, after a while, and charged; each is counted once."""
    table = Table()
    good = [settlement(name, synced(note="note 2")) for name in ("app_a", "app_b")]
    bad = settlement(BAD, synced(note="note 2"))
    with capture_logs() as said:
        tally, ((batch, done),) = await written(table, good[0], bad, good[1])
    first, without, last = table.written
    assert (first.unsure_ids, without.unsure_ids) == ((), (2,))
    assert [first, last] == good
    assert (without.answer, without.due_in_s, without.failures) == (None, 2 * STORE_BASE_S, 1)
    assert [(v.state, v.charged, v.error) for v in without.verdicts] == [(None, 1, REASON)] * 2
    assert without.slots == bad.slots
    assert (len(batch), len(done.due)) == (3, 3)
    assert (tally.requests, tally.synced, tally.folded) == (3, 4, 2)
    (warning,) = [one for one in said if one["event"] == "answer_not_storable"]
    assert (warning["appointment_id"], warning["error"]) == (BAD, "UntranslatableCharacterError")


@pytest.mark.parametrize(("before", "given_up"), [(STORE_ATTEMPTS - 2, False), (STORE_ATTEMPTS - 1, True)])
async def test_it_is_given_up_in_the_end(before: int, given_up: bool) -> None:
    """It parks, and the appointment's other changes go on with a clean slate."""
    table = Table()
    tally, _ = await written(table, settlement(BAD, synced(note="note 2"), failures=before))
    (without,) = table.written
    assert {verdict.state for verdict in without.verdicts} == {"parked" if given_up else None}
    assert (without.failures, without.due_in_s) == (
        (0, None) if given_up else (before + 1, STORE_BASE_S * 2 ** (before + 1))
    )
    assert (tally.parked, tally.synced) == (2 if given_up else 0, 0)


async def test_what_has_no_answer_to_leave_out_is_a_fault() -> None:
    """Of ours: it is raised, and not tried for ever."""
    with pytest.raises(asyncpg.UntranslatableCharacterError):
        await written(Table(), settlement(BAD, RETRY))


async def test_an_answer_that_differs_is_said() -> None:
    """By the names of the fields; it is synced all the same."""
    with capture_logs() as said:
        tally, _ = await written(Table(), settlement("app_a", synced(note="other")))
    differs: list[Any] = [one for one in said if one["event"] == "answer_differs"]
    assert [(one["appointment_id"], one["fields"]) for one in differs] == [("app_a", ["note"])]
    assert (tally.mismatches, tally.synced) == (1, 2)
