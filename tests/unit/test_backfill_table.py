"""CSV of a backfill: what each record makes, and what is said of headers and records that make nothing."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sources import NORTH_TOO, Found, found_in, settings
from worker.backfill.inspection import Inspector
from worker.backfill.lines import LINE_MAX_BYTES
from worker.backfill.rows import Reject, Row
from worker.backfill.table import RECORD_MAX_LINES, Dialect, Records, Table
from worker.errors import SourceError

ANYWHERE = Inspector(accounts=frozenset({"default"}), default_account="default", ids="integer")


async def table(folder: Path, content: str | bytes, **options: Any) -> Found:
    return await found_in(folder / "a.csv", content, **options)


async def test_cells_become_changes(tmp_path: Path) -> None:
    """An empty cell leaves its field alone, NULL clears it, and each field has the type that the API wants."""
    found = await table(
        tmp_path,
        "appointment_id,room_id,note,confirmed,starts_at,resource_ids,account\r\n"
        "app_1,7,NULL,,,,\r\n"
        "app_2,NULL, 007 ,TRUE,2024-01-01T10:00:00Z,1;2,north\r\n"
        "\r\n"
        'app_3,0,"a ""b"", c",false,,[],NULL',
        configured=settings(accounts=NORTH_TOO),
    )
    assert not found.problems
    assert found.said == [
        ("app_1", {"note": None, "room_id": 7}),
        (
            "app_2",
            {
                "confirmed": True,
                "note": " 007 ",
                "resource_ids": [1, 2],
                "room_id": None,
                "starts_at": "2024-01-01T10:00:00Z",
            },
        ),
        ("app_3", {"confirmed": False, "note": 'a "b", c', "resource_ids": [], "room_id": 0}),
    ]
    assert [(row.line, row.account) for row in found.rows] == [(2, "default"), (3, "north"), (5, "default")]


async def test_a_quoted_cell_may_hold_line_ends(tmp_path: Path) -> None:
    """The record has its first line's number, and the next one its own."""
    found = await table(tmp_path, 'appointment_id,note\napp_1,"a\nb\r\n\nc"\napp_2,"d"\n')
    assert found.said == [("app_1", {"note": "a\nb\r\n\nc"}), ("app_2", {"note": "d"})]
    assert [row.line for row in found.rows] == [2, 6]


async def test_other_words_and_delimiters(tmp_path: Path) -> None:
    r"""--null and --delimiter, a tab as \t, and .tsv by itself."""
    found = await table(tmp_path, "appointment_id;note\napp_1;NULL\napp_2;-\n", delimiter=";", null="-")
    assert found.said == [("app_1", {"note": "NULL"}), ("app_2", {"note": None})]
    tabs = "appointment_id\tnote\napp_1\ta,b\n"
    for found in (await table(tmp_path, tabs, delimiter="\\t"), await found_in(tmp_path / "a.tsv", tabs)):
        assert found.said == [("app_1", {"note": "a,b"})]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ("app_1,,,", "line: sets nothing"),
        ("app_1,7", "line: has 2 cells, and the header has 4"),
        ("app_1", "line: has 1 cell, and the header has 4"),
        ("app_1,7,x,true,", "line: has 5 cells, and the header has 4"),
        (",7,,", "appointment_id: is missing"),
        ("NULL,7,,", "appointment_id: is missing"),
        ("app_1,7.0,,", "room_id: must be an integer"),
        ("app_1,007,,", "room_id: must be an integer"),
        ("app_1,-7,,", "room_id: must be an integer"),
        ("app_1, 7,,", "room_id: must be an integer"),
        ("app_1,\u0667,,", "room_id: must be an integer"),
        (f"app_1,{'7' * 20},,", "room_id: must be a whole number from 0 to 2^63-1"),
        (f"app_1,{'7' * 5000},,", "room_id: must be an integer"),
        ("app_1,,,yes", "confirmed: must be true or false"),
        ("app_1,,,1", "confirmed: must be true or false"),
        ("app_1,,,NULL", "confirmed: must be true or false"),
        ("app_1,,a\0b,", "note: must hold no NUL"),
        (f"app_1,,{'x' * 256},", "note: must be at most 255 characters"),
        ('app_1,7,"a" b,', "line: has a quote in a quoted cell that is not doubled"),
        (f'app_1,7,"{"x" * 200_000}",', "a cell that is too long"),
        ('app_1,7,"a,', "line: has a quote that is not closed"),
        (b"app_1,,\xff,", "line: is not valid UTF-8"),
        (b'app_1,,"a\n\xff",', "line: is not valid UTF-8"),
    ],
)
async def test_what_is_wrong_with_a_record(tmp_path: Path, record: str | bytes, problem: str) -> None:
    """Each way in which a record may be wrong is named, and the record behind it is a row."""
    raw = record.encode() if isinstance(record, str) else record
    found = await table(tmp_path, b"appointment_id,room_id,note,confirmed\n" + raw + b"\napp_2,7,,\n")
    assert problem in found.problems[2]
    assert list(found.problems) == [2]
    assert found.rejects[0].raw == raw
    assert found.said == [("app_2", {"room_id": 7})]


async def test_ids_may_be_text_by_configuration(tmp_path: Path) -> None:
    """With api.ids = any, whole numbers are numbers, and everything else, a leading zero too, is text."""
    configured = settings(api={"ids": "any"})
    content = "appointment_id,room_id,resource_ids\napp_1,r_1,1;r-2\napp_2,007,\napp_3,7,\n"
    assert (await table(tmp_path, content, configured=configured)).said == [
        ("app_1", {"resource_ids": [1, "r-2"], "room_id": "r_1"}),
        ("app_2", {"room_id": "007"}),
        ("app_3", {"room_id": 7}),
    ]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            "appointment_id,romo_id,",
            r"none of a change: romo_id, \(empty\); there are appointment_id, account, .*room_id",
        ),
        ("appointment_id,note,note", "more than once: note"),
        ("appointment_id,account", "names nothing to set"),
        ("note,room_id", "no column is appointment_id"),
        ("appointment_id;note", "no column is appointment_id; is it --delimiter ';'"),
        ("appointment_id\tnote", r"no column is appointment_id; is it --delimiter '\\t'"),
        ('appointment_id,"note', "the header, has a quote that is not closed"),
        ("Appointment_ID,note", "no column is appointment_id"),
    ],
)
async def test_what_is_wrong_with_a_header(tmp_path: Path, header: str, words: str) -> None:
    """A header that is not understood ends it before any line, and says which fields there are."""
    with pytest.raises(SourceError, match=words):
        await table(tmp_path, f"{header}\napp_1,7,8\n")


async def test_json_lines_are_told_apart(tmp_path: Path) -> None:
    """They are no header, whatever the file is called."""
    with pytest.raises(SourceError, match=r"line 1 is no header of CSV, but .* JSON Lines; is it --format jsonl\?"):
        await found_in(tmp_path / "a.csv", '{"appointment_id": "app_1", "changes": {"note": "x"}}\n')


async def test_a_file_without_a_header_is_not_quoted(tmp_path: Path) -> None:
    """Its first line is data, which is nobody's business."""
    with pytest.raises(SourceError) as refused:
        await table(tmp_path, "app_1,Mrs Canary coughs\n")
    assert "Canary" not in str(refused.value)
    assert "app_1" not in str(refused.value)


async def test_a_header_alone_and_nothing_at_all_are_no_lines(tmp_path: Path) -> None:
    """Nobody is told that an empty export is broken."""
    for content in ("appointment_id,note\n", "", "\n\n"):
        found = await table(tmp_path, content)
        assert not found.rows
        assert not found.rejects


@pytest.mark.parametrize(
    "content",
    [
        "appointment_id,note\rapp_1,Canary\rapp_2,b\r",
        'appointment_id,note\rapp_1,"Canary"\rapp_2,"b"\r',
        "note\rCanary\r",
        "appointment_id,note\r" + "app_1,Canary\r" * (LINE_MAX_BYTES // 10),
    ],
    ids=["plain", "quoted", "no header either", "long"],
)
async def test_lines_that_end_in_carriage_returns_alone(tmp_path: Path, content: str) -> None:
    """Such a file is all header: none of it is quoted, and the mend is named."""
    with pytest.raises(SourceError, match=r"tr '\\r' '\\n' < FILE") as refused:
        await table(tmp_path, content)
    assert "Canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("header", "numbers"),
    [
        ('appointment_id,"note\napp_1,Canary"\n', "number 2;"),
        ("appointment_id,note,Mrs Canary,Canary\n", "number 3, number 4;"),
        (f"appointment_id,Canary{'x' * 64},note\n", "number 2;"),
    ],
)
async def test_what_does_not_look_like_a_header_is_not_quoted(tmp_path: Path, header: str, numbers: str) -> None:
    """One cell that is no name, and the others may be data as well: the columns are told by their numbers."""
    with pytest.raises(SourceError, match=f"none of a change: {numbers}") as refused:
        await table(tmp_path, header + "app_1,7,8\n")
    assert "Canary" not in str(refused.value)


@pytest.mark.parametrize("second", ['"fine"', '"fi""ne"'])
async def test_a_broken_record_costs_its_first_line(tmp_path: Path, second: str) -> None:
    """A quote that is not closed meets that of a later record: what is in between is looked at by itself."""
    content = f'appointment_id,note\napp_1,"open\napp_2,ok\r\napp_3,{second}\napp_4,"a"b\napp_5,ok\n'
    found = await table(tmp_path, content)
    assert found.problems == {
        2: "line: has a quote that is not closed or not doubled, or a cell that is too long",
        5: "line: has a quote in a quoted cell that is not doubled, or a cell that is too long",
    }
    assert [reject.raw for reject in found.rejects] == [b'app_1,"open', b'app_4,"a"b']
    assert [(row.line, row.appointment_id) for row in found.rows] == [(3, "app_2"), (4, "app_3"), (6, "app_5")]


async def test_bytes_that_mean_nothing_cost_their_record(tmp_path: Path) -> None:
    """All of it, wherever they stand: half a note is no record."""
    found = await table(tmp_path, b'appointment_id,note\napp_1,"a\n\xff\napp_9,c"\napp_2,b\n')
    assert list(found.problems) == [2]
    assert found.rejects[0].raw == b'app_1,"a\n\xff\napp_9,c"'
    assert [(row.line, row.appointment_id) for row in found.rows] == [(5, "app_2")]


@pytest.mark.parametrize("filler", ["app_2,b", 'x",y,"', '""'])
def test_a_quote_that_is_never_closed_takes_no_more_than_its_line(filler: str) -> None:
    """However many lines follow, few are held at a time, and all of them are looked at by themselves."""
    lines = 20 * RECORD_MAX_LINES if filler == "app_2,b" else 3 * RECORD_MAX_LINES
    given_out = 0

    def endless() -> Any:
        nonlocal given_out
        yield b"appointment_id,note"
        yield b'app_1,"a'
        for given_out in range(1, lines + 1):  # noqa: B007
            yield filler.encode()

    records = Records(endless(), ",", "utf-8")
    header, first = records.next(), records.next()
    assert header
    assert first
    assert (first.line, first.fault, first.raw) == (2, "has a quote that is not closed", b'app_1,"a')
    assert given_out <= RECORD_MAX_LINES
    count, size, last = 0, 0, 0
    while (record := records.next()) is not None:
        count, last = count + 1, record.line
        size = max(size, len(record.raw))
    assert size <= LINE_MAX_BYTES
    assert filler != "app_2,b" or (count, last) == (lines, lines + 2)


def _made(content: bytes) -> list[Row | Reject]:
    lines = iter(content.split(b"\n"))
    try:
        return list(Table(Records(lines, ",", "utf-8"), Dialect(), "a.csv").rows(ANYWHERE))
    except SourceError:
        return []


@given(st.binary() | st.text("app_1,\"\n\r;7'\0# line:", max_size=80).map(str.encode))
def test_any_bytes_are_rows_rejects_or_a_refused_header(content: bytes) -> None:
    """Whatever a file holds, nothing else comes of it."""
    for head in (b"", b"appointment_id,note\n"):
        assert all(isinstance(one, Row | Reject) for one in _made(head + content))


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)


@given(st.lists(st.tuples(_TEXT, st.integers(0, 2**63 - 1), st.booleans()), min_size=1, max_size=5))
def test_what_a_csv_writer_writes_arrives_as_it_was(given_rows: list[tuple[str, int, bool]]) -> None:
    """Quotes, delimiters and line ends in a note come out as they went in."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["appointment_id", "note", "room_id", "confirmed"])
    writer.writerows([f"app_{at}", note, room, confirmed] for at, (note, room, confirmed) in enumerate(given_rows))
    made = _made(buffer.getvalue().encode())
    assert [isinstance(one, Row) for one in made] == [True] * len(given_rows)
    for one, (note, room, confirmed) in zip(made, given_rows, strict=True):
        assert isinstance(one, Row)
        expected = Inspector.inspect(
            ANYWHERE,
            one.line,
            None,
            one.appointment_id,
            {"note": None if note == "NULL" else note, "room_id": room, "confirmed": confirmed},
            b"",
        )
        assert one == expected
