"""What the command line names as the source of a backfill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.support.sources import NORTH_TOO, found_in, settings
from tests.support.waiting import eventually
from worker.backfill.sources import BATCH_BYTES, BATCH_LINES, Asked, inspector_from, source_from
from worker.errors import SourceError, UsageError
from worker.threads import DetachedThreads

JSON_LINE = '{"appointment_id": "app_1", "changes": {"room_id": 7}}\n'
CSV = "appointment_id,room_id\napp_1,7\n"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "give one of FILE"),
        ({"file": "-", "query": "SELECT 1"}, "give one of FILE"),
        ({"query": "SELECT 1", "query_file": Path("a.sql")}, "give one of FILE"),
        ({"file": "-", "query_dsn": "postgresql:///x"}, "--query-dsn says where --query runs"),
        ({"query": "SELECT 1", "delimiter": ";"}, "are of a FILE"),
        ({"query": "SELECT 1", "format": "csv"}, "are of a FILE"),
        ({"query": "SELECT 1", "encoding": "latin-1"}, "are of a FILE"),
        ({"file": "-", "format": "jsonl", "null": "-"}, "are of CSV"),
        ({"file": "a.jsonl", "delimiter": ";"}, "are of CSV"),
        ({"file": "-", "delimiter": ";;"}, "--delimiter is one character"),
        ({"file": "-", "delimiter": ""}, "--delimiter is one character"),
        ({"file": "-", "delimiter": '"'}, "--delimiter is one character"),
        ({"file": "-", "delimiter": "\n"}, "--delimiter is one character"),
        ({"file": "-", "null": ""}, "--null a word"),
        ({"file": "-", "encoding": "klingon"}, "--encoding"),
        (
            {"file": "-", "account": "south"},
            "--account south: is not an account of the configuration; there are default",
        ),
    ],
)
def test_options_that_do_not_go_together(asked: dict[str, Any], words: str) -> None:
    """They are bad usage, and the message names them."""
    with pytest.raises(UsageError, match=words):
        source_from(Asked(**asked), settings())


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, "No such file"), (b"  \n", "is empty"), (b"\xff", "is not UTF-8"), (b"SELECT \0", "holds a NUL character")],
)
def test_a_query_file_that_holds_none(tmp_path: Path, content: bytes | None, error: str) -> None:
    """It is told before anything is connected to."""
    path = tmp_path / "a.sql"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=rf"a\.sql: .*{error}"):
        source_from(Asked(query_file=path), settings())


def test_names(tmp_path: Path) -> None:
    """A backfill is called as its file, or else by what it is."""
    odd = tmp_path / os.fsdecode(b"a\xff.csv")
    for path in (tmp_path / "year.jsonl.gz", tmp_path / "a.sql", odd):
        path.write_text("SELECT 1")
    named = [
        source_from(asked, settings()).name
        for asked in (
            Asked(file=str(tmp_path / "year.jsonl.gz")),
            Asked(file=str(odd)),
            Asked(file="-"),
            Asked(file="/dev/stdin"),
            Asked(query="SELECT 1"),
            Asked(query_file=tmp_path / "a.sql"),
        )
    ]
    assert named == ["year.jsonl.gz", "a\N{REPLACEMENT CHARACTER}.csv", "stdin", "stdin", "query", "a.sql"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSON_LINE), ("a.ndjson", JSON_LINE), ("a.json", JSON_LINE), ("A.JSONL", JSON_LINE),
        ("a", JSON_LINE), ("a.txt", "\n \n" + JSON_LINE), ("a.log", "# line 4: x\n" + JSON_LINE),
        ("a.csv", CSV), ("a", CSV), ("a.txt", "\n\n" + CSV), ("a.dat", '"appointment_id","room_id"\napp_1,7\n'),
    ],
)  # fmt: skip
async def test_formats(tmp_path: Path, name: str, content: str) -> None:
    """The suffix tells; without one that does, the first character: JSON begins with a bracket, a header does not."""
    assert (await found_in(tmp_path / name, content)).said == [("app_1", {"room_id": 7})]


def test_a_packed_file_is_what_its_name_says(tmp_path: Path) -> None:
    """Before it is read, so that options which do not fit are told at once."""
    path = tmp_path / "a.csv.gz"
    path.touch()
    assert source_from(Asked(file=str(path)), settings()).format == "csv"


async def test_the_format_that_is_told_beats_the_suffix(tmp_path: Path) -> None:
    """--format is for files with the wrong name."""
    assert (await found_in(tmp_path / "a.jsonl", CSV, format="csv")).said == [("app_1", {"room_id": 7})]


def test_the_account_of_lines_that_name_none() -> None:
    """The one that is told; else the only one; else default, if there is one."""
    one, two, others = (
        settings(accounts=accounts) for accounts in ({"north": {}}, NORTH_TOO, {"north": {}, "south": {}})
    )
    assert inspector_from(two, "north").default_account == "north"
    assert inspector_from(one, None).default_account == "north"
    assert inspector_from(two, None).default_account == "default"
    assert inspector_from(others, None).default_account is None


async def test_batches_are_bounded(tmp_path: Path) -> None:
    """By lines, and where those are long by their bytes, refused ones too; together they are the file, in order."""
    short = await found_in(tmp_path / "a.jsonl", JSON_LINE * (2 * BATCH_LINES + 1))
    assert [len(batch.rows) for batch in short.batches] == [BATCH_LINES, BATCH_LINES, 1]
    assert [row.line for row in short.rows] == list(range(1, 2 * BATCH_LINES + 2))
    long = '{"appointment_id": "app_1", "changes": {"resource_ids": [%s1]}}\n' % ("7, " * 15_000)
    for line in (long, f"[{'7' * len(long)}\n"):
        found = await found_in(tmp_path / "a.jsonl", JSON_LINE + line * 300)
        assert len(found.rows) + len(found.rejects) == 301
        assert max(len(batch.rows) + len(batch.rejects) for batch in found.batches) <= 2 * BATCH_BYTES // len(long) + 2


@pytest.mark.long
async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """What is read is never held as a whole: six times the lines peak where one does."""
    peaks = []
    for count in (2 * BATCH_LINES, 12 * BATCH_LINES):
        path = tmp_path / f"{count}.jsonl"
        path.write_text(JSON_LINE * count)
        tracemalloc.start()
        try:
            async with contextlib.aclosing(source_from(Asked(file=str(path)), settings()).batches()) as batches:
                async for _ in batches:
                    pass
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def open_files() -> list[str]:
    # One of the numbers is that of the folder, and gone.
    return [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]


async def test_whoever_stops_early_leaves_no_file_open(tmp_path: Path) -> None:
    """The file is closed as soon as nobody wants more of it."""
    path = tmp_path / "a.jsonl"
    path.write_text(JSON_LINE * 30_000)
    async with contextlib.aclosing(source_from(Asked(file=str(path)), settings()).batches()) as batches:
        async for _ in batches:
            break

    await eventually(lambda: str(path) not in open_files(), what="the file is closed")


async def test_a_pipe_that_gives_nothing_holds_nobody_up(tmp_path: Path) -> None:
    """Cancelling what waits for it ends at once, whether its writer has come or not."""
    asyncio.get_running_loop().set_default_executor(DetachedThreads())
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def read() -> None:
        async with contextlib.aclosing(source_from(Asked(file=str(pipe)), settings()).batches()) as batches:
            async for _ in batches:
                pass

    for writer in (None, os.O_RDWR):
        end = os.open(pipe, writer) if writer is not None else None
        reading = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(reading, 20)
        # And the thread ends when the pipe does.
        os.close(end if end is not None else os.open(pipe, os.O_WRONLY))
