"""The pass over a backfill's source."""

from __future__ import annotations

import pytest

from tests.support.madeup import MadeUp, reject, row
from worker.backfill import examining
from worker.backfill.census import Census
from worker.backfill.examining import Examined, FoundProblem, ReadSoFar, examine
from worker.backfill.rows import Batch, Reject, Row
from worker.cli.reading import said

LINES = [
    row(1, "app_1", {"note": None}),
    reject(2, ("note", "must be a string"), ("room_id", "must be an integer")),
    row(3, "app_1", {"note": "x"}),
    reject(4, ("note", "must be a string")),
    row(5, "app_2", {"note": None}),
]


async def look(lines: list[Row | Reject], problems: int) -> tuple[Examined, list[ReadSoFar], list[Batch]]:
    shown: list[ReadSoFar] = []
    batches: list[Batch] = []

    async def take(batch: Batch) -> None:
        batches.append(batch)

    with Census(most_folded=1000) as census:
        found = await examine(MadeUp(lines), census, on_batch=take, problems=problems, show=shown.append)
        counted = await census.counted(duplicates=0)
    assert counted.lines == found.valid
    return found, shown, batches


async def test_what_is_found() -> None:
    """Valid and rejected lines are counted, problems by field, the first ones named in order; every batch is handed on,
    and progress told after each."""
    found, shown, batches = await look(LINES, problems=2)
    assert found == Examined(
        valid=3,
        rejected=2,
        problems=3,
        first_problems=(
            FoundProblem(line=2, field="note", reason="must be a string"),
            FoundProblem(line=2, field="room_id", reason="must be an integer"),
        ),
        problems_by_field={"note": 2, "room_id": 1},
    )
    assert [len(batch.rows) + len(batch.rejects) for batch in batches] == [2, 2, 1]
    assert shown[-1] == ReadSoFar(lines=5, problems=3, share=1.0)
    assert said(shown[0]) == "read 2 lines (40%), 2 problems"
    assert said(ReadSoFar(lines=340_000, problems=0, share=None)) == "read 340,000 lines"


async def test_field_names_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose every line has a field name of its own does not fill the memory with them."""
    monkeypatch.setattr(examining, "FIELDS_MOST", 3)
    found, _, _ = await look([reject(line, (f"field_{line}", "is no field")) for line in range(10)], problems=0)
    assert found.problems_by_field == {"field_0": 1, "field_1": 1, "field_2": 1, "others": 7}


async def test_the_source_is_closed_when_a_batch_fails() -> None:
    """What the source has open is closed at once when whoever takes the batches fails."""
    source = MadeUp(LINES)

    async def fail(_: Batch) -> None:
        raise ZeroDivisionError

    with Census(most_folded=1000) as census, pytest.raises(ZeroDivisionError):
        await examine(source, census, on_batch=fail, problems=0)
    assert source.closed
