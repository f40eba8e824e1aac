"""The census of a backfill's lines: what it counts, and what it leaves behind."""

from __future__ import annotations

import math
import os
import stat
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.madeup import row
from worker.backfill import census
from worker.backfill.census import Census
from worker.backfill.rows import Row
from worker.backfill.spill import PARTS, Spill
from worker.backfill.tally import Counted, Duplicate, Fate, FieldCount
from worker.errors import ExitCode, NoRoom

CHANGES = st.dictionaries(st.sampled_from(["note", "room_id", "case_id"]), st.sampled_from([None, 1, 2]), min_size=1)
LINES = st.lists(
    st.tuples(st.sampled_from(["north", "south"]), st.sampled_from(["app_1", "app_2", "app_3"]), CHANGES), max_size=60
)
FATES = st.sampled_from([Fate.WHOLE, Fate.WHOLE, Fate.LEFT_OUT, Fate.OUTDATED])


def rows_of(lines: list[tuple[str, str, dict[str, int | None]]]) -> list[Row]:
    return [row(number, id_, changes, account=account) for number, (account, id_, changes) in enumerate(lines, 1)]


async def count(
    rows: list[Row], *, known: list[Row] | None = None, fates: dict[int, Fate] | None = None, most_folded: int = 1000
) -> Counted:
    with Census(most_folded=most_folded) as taken:
        taken.know((one.account, one.appointment_id, one.digest) for one in known or [])
        for start in range(0, len(rows), 7):
            batch = rows[start : start + 7]
            taken.leave_out({one.line: fate for one in batch if (fate := (fates or {}).get(one.line))})
            taken.add(batch)
        return await taken.counted(duplicates=5)


@given(
    lines=LINES,
    known=LINES,
    fates=st.lists(FATES, min_size=60, max_size=60),
    most_folded=st.integers(1, 4),
    kept=st.sampled_from([0, 30, 10_000]),
    part_most=st.sampled_from([1, 5, 10_000]),
)
async def test_it_counts_as_one_would_by_hand(
    lines: list[tuple[str, str, dict[str, int | None]]],
    known: list[tuple[str, str, dict[str, int | None]]],
    fates: list[Fate],
    most_folded: int,
    kept: int,
    part_most: int,
) -> None:
    """However much goes into the file, and however often a part is gone through: accounts, appointments, requests,
    duplicates, fields, and what is known already, each known line once, are those of a count in memory."""
    rows = rows_of(lines)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(census, "Spill", partial(Spill, kept=kept))
        patched.setattr(census, "_PART_MOST", part_most)
        found = await count(rows, known=rows_of(known), fates=dict(enumerate(fates, 1)), most_folded=most_folded)
    left = Counter(one.digest for one in rows_of(known))
    first: dict[object, int] = {}
    repeated, sent, seen = [], Counter[tuple[str, str]](), set()
    by_fate = {account: Counter[Fate]() for account in ("north", "south")}
    for one, fate in zip(rows, fates, strict=False):
        seen.add((one.account, one.appointment_id))
        if first.setdefault(one.digest, one.line) != one.line:
            repeated.append(Duplicate(line=one.line, first=first[one.digest]))
        if left[one.digest] > 0:
            left[one.digest] -= 1
            fate = Fate.KNOWN  # noqa: PLW2901
        by_fate[one.account][fate] += 1
        sent[one.account, one.appointment_id] += fate in (Fate.WHOLE, Fate.LEFT_OUT)
    for account in found.accounts:
        name = account.account
        # Which of equal lines is the known one makes no difference, so long as they have the same fate.
        same_fates = all(len({fates[one.line - 1] for one in rows if one.digest == digest}) == 1 for digest in first)
        assert account.lines == by_fate[name].total()
        assert account.known == by_fate[name][Fate.KNOWN]
        assert account.appointments == sum(1 for owner, _ in seen if owner == name)
        if same_fates:
            assert account.left_out == by_fate[name][Fate.LEFT_OUT]
            assert account.outdated == by_fate[name][Fate.OUTDATED]
            assert account.requests == sum(
                math.ceil(lines / most_folded) for (owner, _), lines in sent.items() if owner == name
            )
    assert [account.account for account in found.accounts] == sorted({one.account for one in rows})
    assert (found.duplicates, found.first_duplicates) == (len(repeated), tuple(repeated[:5]))
    for name, field in found.fields.items():
        values = [changes[name] for _, _, changes in lines if name in changes]
        assert field == FieldCount(set=len(values) - values.count(None), cleared=values.count(None))


async def test_many_ways_to_combine_fields() -> None:
    """The counts of fields are right beyond the ways to combine them that are kept, too."""
    names = [f"field_{number}" for number in range(15)]
    rows = [
        row(number, "app_1", {name: None for place, name in enumerate(names) if number >> place & 1})
        for number in range(1, 2**14)
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(census, "_SHAPES_MOST", 50)
        found = await count(rows)
    assert found.fields == {name: FieldCount(set=0, cleared=2**13) for name in sorted(names[:14])}


async def test_the_first_duplicates_are_named() -> None:
    """Of many, those are named that come first in the source, whatever part they are counted in."""
    rows = [row(line, f"app_{line % 50}", {"note": None}) for line in range(100)]
    found = await count(rows)
    assert found.duplicates == 50
    assert found.first_duplicates == tuple(Duplicate(line=line, first=line - 50) for line in range(50, 55))


async def test_equal_ids_of_two_accounts_are_two_appointments() -> None:
    """An appointment's id says which one it is within its account only."""
    rows = [row(1, "app_1", {"note": None}, account="north"), row(2, "app_1", {"note": None}, account="south")]
    found = await count(rows)
    assert (found.appointments, found.duplicates, found.requests) == (2, 0, {"north": 1, "south": 1})


async def test_without_coalescing_each_line_is_a_request() -> None:
    """Where nothing is folded, as many requests as lines."""
    rows = [row(line, f"app_{line % 3}", {"room_id": line}) for line in range(1, 11)]
    assert (await count(rows, most_folded=1)).requests == {"default": 10}
    assert (await count(rows)).requests == {"default": 3}


def deleted_files() -> list[str]:
    """What this process has open and has no name any more."""
    found = []
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208  names are all that is wanted
        try:
            target = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115  as it stands there
        except OSError:
            continue
        if target.endswith("(deleted)") and target.startswith(tempfile.gettempdir()):
            found.append(number)
    return found


def test_its_files_are_private_and_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a spill lasts, its file has no name and is its owner's only; whatever ends it, it is closed, which deletes
    it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError), Spill(1, kept=10) as spill:  # noqa: PT012
        spill.add([(number,) for number in range(100)])
        (descriptor,) = deleted_files()
        assert list(tmp_path.iterdir()) == []
        assert stat.S_IMODE(os.stat(int(descriptor)).st_mode) == 0o600  # noqa: PTH116  it has no path
        raise ZeroDivisionError
    assert deleted_files() == []


def test_what_comes_back_is_what_went_in() -> None:
    """Each part's records come in their order, those in the file first."""
    with Spill(2, kept=6) as spill:
        for number in range(10):
            spill.add([(5 + PARTS * number, number), (6, number)])
        assert spill.records(5) == 10
        assert [tuple(pair) for columns in spill.part(5) for pair in zip(*columns, strict=True)] == [
            (5 + PARTS * number, number) for number in range(10)
        ]


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said in one line where there is no room, why, and what decides where it is."""
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b"))
    with pytest.raises(NoRoom, match=r"No space left on device.*\$TMPDIR") as raised, Spill(1, kept=10) as spill:
        spill.add([(number,) for number in range(100)])
    assert raised.value.exit_code == ExitCode.UNREACHABLE


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where there is none."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(NoRoom, match=r"/nowhere: .*No such file"), Spill(1, kept=10) as spill:
        spill.add([(number,) for number in range(100)])
