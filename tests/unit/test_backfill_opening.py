"""Files of a backfill: opened, unpacked, decoded, and what is said of those that cannot be."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.packing import gzipped
from tests.support.sources import found, found_in
from worker.backfill.decoding import in_utf8, known_encoding
from worker.backfill.lines import LINE_MAX_BYTES, lines
from worker.backfill.opening import CHUNK_BYTES
from worker.backfill.sources import Asked
from worker.errors import SourceError, UsageError

LINE = b'{"appointment_id": "app_1", "changes": {"room_id": 7}}\n'


def header_and(note: str) -> str:
    return f"appointment_id,note\napp_1,{note}\napp_2,b\n"


async def test_gzip_is_unpacked(tmp_path: Path) -> None:
    """One member, several in a row, or with padding behind; and whatever the file is called."""
    packed = gzipped(LINE)
    for name, content in (("a.jsonl.gz", packed), ("a.gz", packed * 3 + b"\0" * 512), ("a.jsonl", packed * 2)):
        assert len((await found_in(tmp_path / name, content)).rows) == content.count(b"\x1f\x8b\x08")


async def test_how_much_was_read_is_of_the_file_itself(tmp_path: Path) -> None:
    """So that it can be held against the file's size, however well that is packed."""
    packed = gzipped(LINE * 20_000)
    batches = (await found_in(tmp_path / "a.jsonl.gz", packed)).batches
    assert len(batches) == 4
    assert [batch.read for batch in batches] == sorted(batch.read for batch in batches)
    assert batches[-1].read == len(packed)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzipped(os.urandom(3000).hex().encode() + b"\n" + LINE * 50_000)[:-9], "after line .*: it is cut short"),
        (gzipped(LINE)[:30] + b"\xff" * 30, "cannot be read after line 0: it is damaged"),
        (gzipped(LINE)[:-6] + b"\xff" * 6, "it is damaged"),
        (gzipped(LINE) + b"something else", "after line 1: it is damaged, or something else follows"),
        (b"", "cannot be read: it is cut short"),
        (LINE, "is called .gz, and is not packed by gzip"),
    ],
)
async def test_gzip_that_is_broken_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    """Which file, how far it was read, and why no further."""
    with pytest.raises(SourceError, match=rf"a\.jsonl\.gz.*{words}"):
        await found_in(tmp_path / "a.jsonl.gz", content)


async def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    """Before anything else is done: the name and the reason."""
    with pytest.raises(SourceError, match=r"nowhere\.csv: cannot be read: No such file or directory"):
        await found(Asked(file=str(tmp_path / "nowhere.csv")))
    with pytest.raises(SourceError, match="is a directory"):
        await found(Asked(file=str(tmp_path)))
    with pytest.raises(SourceError, match="Not a directory"):
        await found(Asked(file="/dev/null/a.csv"))
    with pytest.raises(SourceError, match="/proc/self/mem: cannot be read: Input/output error"):
        await found(Asked(file="/proc/self/mem"))


async def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    """Whatever it is called, unless gzip is said to have packed it: that would have left something."""
    for name in ("a.jsonl", "a.csv", "a"):
        assert not (await found_in(tmp_path / name, b"")).batches


async def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """In UTF-8, whether it is told or not."""
    for encoding in ("utf-8", "utf-8-sig", "UTF8"):
        assert (await found_in(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + LINE, encoding=encoding)).said == [
            ("app_1", {"room_id": 7})
        ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "mac-roman"])
async def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    """Text that the encoding has arrives as it is."""
    found = await found_in(tmp_path / "a.csv", header_and('"é,ü\nß"').encode(encoding), encoding=encoding)
    assert found.said == [("app_1", {"note": "é,ü\nß"}), ("app_2", {"note": "b"})]


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [
        ("utf-8", b"\xff"),
        ("cp1252", b"\x81"),
        ("utf-16-le", b"\x00\xdc"),
        ("shift_jis", b"\x80"),
        ("ascii", b"\xe9"),
    ],
)
async def test_bytes_that_mean_nothing_are_a_fault_of_their_line(tmp_path: Path, encoding: str, bad: bytes) -> None:
    """The line is refused, and says which encoding it was held against; the others are rows."""
    content = header_and("@").encode(encoding).replace("@".encode(encoding), bad)
    found = await found_in(tmp_path / "a.csv", content, encoding=encoding)
    assert found.problems == {2: f"line: is not valid {known_encoding(encoding).upper()}; is it another --encoding?"}
    assert found.said == [("app_2", {"note": "b"})]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
async def test_utf_16_is_recognised(tmp_path: Path, encoding: str) -> None:
    """What every spreadsheet of an Excel calls Unicode text is no UTF-8, and the mend is named."""
    with pytest.raises(SourceError, match=r"looks like UTF-16.*--encoding utf-16"):
        await found_in(tmp_path / "a.csv", header_and("a").encode(encoding))


@pytest.mark.parametrize("encoding", ["nonsense", "base64", "rot13", "", "undefined", "zip", "\0", "a" * 500])
def test_encodings_that_are_none(encoding: str) -> None:
    """A name that Python does not know, or that is not of text, is bad usage."""
    with pytest.raises(UsageError, match="--encoding"):
        known_encoding(encoding)


async def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """A named pipe, whose writer comes late and writes in pieces; its length is not known."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("wb", buffering=0) as end:
            for piece in (b"\x1f"[:0], LINE[:10], LINE[10:], LINE):
                end.write(piece)

    writer = threading.Thread(target=write)
    writer.start()
    rows = (await found(Asked(file=str(pipe)))).rows
    writer.join()
    assert [row.line for row in rows] == [1, 2]


async def test_standard_input_that_does_not_block_is_waited_for() -> None:
    """Whoever gave it to us may have set it so; what is not there yet is not its end."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    before = os.dup(0)
    os.dup2(ours, 0)
    try:
        later = threading.Timer(0.1, lambda: (os.write(theirs, LINE), os.close(theirs)))
        later.start()
        assert len((await found(Asked(file="-"))).rows) == 1
        later.join()
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(ours)
    assert sys.stdin is not None


async def test_a_terminal_is_asked_for_one_end() -> None:
    """Whoever types Ctrl-D once means it: what is typed after it is for the next program."""
    ours, theirs = os.openpty()
    before = os.dup(0)
    os.dup2(theirs, 0)
    try:
        for typed in (b"\x04" + LINE + b"\x04", LINE + b"\x04" + LINE + b"\x04" * 2):
            os.write(ours, typed)
            async with asyncio.timeout(20):
                first = len((await found(Asked(file="-"))).rows)
                rest = len((await found(Asked(file="-"))).rows)
            assert (first, rest) == (typed.startswith(LINE), 1)
    finally:
        os.dup2(before, 0)
        for end in (before, ours, theirs):
            os.close(end)


def test_a_line_without_end_takes_no_more_memory_than_a_long_one() -> None:
    """What is beyond the limit is not held, however much of it there is."""
    chunk = b"x" * CHUNK_BYTES
    tracemalloc.start()
    try:
        (line,) = lines(itertools.repeat(chunk, 400), "x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(line) == LINE_MAX_BYTES + 1
    assert peak < 8 * LINE_MAX_BYTES


class Pieces:
    """A stream that gives as little as it likes."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._content = content
        self._sizes = sizes

    def read(self, size: int, /) -> bytes:
        most = min(size, self._sizes.pop() if self._sizes else size)
        piece, self._content = self._content[:most], self._content[most:]
        return piece


@given(
    st.text("a\n\ré\N{GRINNING FACE}", max_size=40),
    st.lists(st.integers(1, 5)),
    st.sampled_from(["utf-8", "utf-16", "utf-32-be"]),
)
def test_lines_do_not_depend_on_how_they_are_read(text: str, sizes: list[int], encoding: str) -> None:
    """However a stream is cut into pieces, its lines are those of the text."""
    if encoding == "utf-8" and len(text.encode()) < 2:
        return
    stream = Pieces(text.encode(encoding), sizes)
    got = list(lines(in_utf8(stream, known_encoding(encoding), "x"), "x"))
    assert got == [line.encode() for line in text.removesuffix("\n").split("\n")] or (not text and not got)
