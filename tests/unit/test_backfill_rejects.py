"""The file of the lines that were left out: it can be mended and given back, and only its owner can read it."""

from __future__ import annotations

import contextlib
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sources import Found, found, found_in, settings
from worker.backfill.rejects import Rejects
from worker.backfill.sources import Asked, source_from
from worker.errors import UsageError

BAD_LINES = b"""\
{"appointment_id": "app_1", "changes": {"room_id": 7}}
{"appointment_id": "app_2", "changes": {"room_id": "BAD"}}\r
{"appointment_id": "app_3", "changes": {"note": "\xc3\xa9BAD\xff"}}

{"appointment_id": "app_4", "changes": {"room_id": BAD}}
"""
BAD_TABLE = 'appointment_id,room_id,note\r\napp_1,7,é\r\napp_2,BAD,"é,\r\nb"\r\napp_3,BAD,é\r\n'


async def written(path: Path, content: bytes, **options: Any) -> tuple[Rejects, Found]:
    """The rejects of a file, added to a file of theirs that is not kept yet."""
    read = await found_in(path, content, **options)
    source = source_from(Asked(file=str(path), **options), settings())
    batches = source.batches()
    rejects = Rejects(source, name="year", path=path.parent / f"rejects{path.suffix}")
    async for batch in batches:
        rejects.add(batch.rejects)
    return rejects, read


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def test_json_lines_are_mended_and_given_back(tmp_path: Path) -> None:
    """Each with what is wrong with it before it; what is mended loads, and no remark need be deleted."""
    rejects, read = await written(tmp_path / "year.jsonl", BAD_LINES)
    path = rejects.keep()
    assert path == tmp_path / "rejects.jsonl"
    content = path.read_bytes()
    assert content.splitlines()[0] == b"# line 2: room_id: must be an integer"
    assert b"\xff" in content
    mended = content.replace(b'"BAD"', b"7").replace(b"BAD\xff", b"").replace(b"BAD", b"8")
    again = await found_in(path, mended)
    assert not again.problems
    assert again.said == [("app_2", {"room_id": 7}), ("app_3", {"note": "é"}), ("app_4", {"room_id": 8})]
    assert len(read.rows) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
async def test_csv_is_mended_and_given_back(tmp_path: Path, encoding: str) -> None:
    """With its header, in its encoding, so that the same command reads it."""
    rejects, _ = await written(tmp_path / "year.csv", BAD_TABLE.encode(encoding), encoding=encoding)
    path = rejects.keep()
    assert path == tmp_path / "rejects.csv"
    mended = path.read_bytes().decode(encoding).replace("BAD", "9")
    again = await found_in(path, mended.encode(encoding), encoding=encoding)
    assert not again.problems
    assert again.said == [("app_2", {"note": "é,\r\nb", "room_id": 9}), ("app_3", {"note": "é", "room_id": 9})]


async def test_a_byte_that_means_nothing_is_kept(tmp_path: Path) -> None:
    """So that whoever mends the line sees what stood there."""
    content = "appointment_id,note\napp_1,é@\n".encode("cp1252").replace(b"@", b"\x81")
    path = (await written(tmp_path / "year.csv", content, encoding="cp1252"))[0].keep()
    assert path
    assert b"app_1,\xe9\x81\n" in path.read_bytes()


async def test_a_cut_character_puts_nothing_out_of_step(tmp_path: Path) -> None:
    """Where characters take two bytes, half of one becomes a question mark, and what follows stays readable."""
    content = "appointment_id,note\napp_1,@\napp_2,x,y".encode("utf-16-le").replace(b"@\0", b"\x00\xdc") + b"!"
    path = (await written(tmp_path / "year.csv", content, encoding="utf-16-le"))[0].keep()
    assert path
    assert path.read_bytes().decode("utf-16-le").splitlines()[-1].startswith("app_2,x,y")


async def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    """Neither while it is written nor after: bodies are about patients."""
    rejects, _ = await written(tmp_path / "year.jsonl", BAD_LINES)
    (unfinished,) = (path for path in files(tmp_path) if path.name.startswith(".rejects"))
    assert stat.S_IMODE(unfinished.stat().st_mode) == 0o600
    path = rejects.keep()
    assert path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files(tmp_path) == [path, tmp_path / "year.jsonl"]


async def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    """The same rejects again are the same file; others, or a file of somebody's, make the next name."""
    somebody = tmp_path / "rejects.jsonl"
    somebody.write_text("precious")
    for content, name in ((BAD_LINES, "rejects-2"), (BAD_LINES, "rejects-2"), (BAD_LINES * 2, "rejects-3")):
        rejects, _ = await written(tmp_path / "year.jsonl", content)
        assert rejects.keep() == tmp_path / f"{name}.jsonl"
    assert somebody.read_text() == "precious"
    assert len(files(tmp_path)) == 4


async def test_without_rejects_there_is_no_file(tmp_path: Path) -> None:
    """And what is dropped leaves nothing behind."""
    rejects, _ = await written(tmp_path / "year.jsonl", BAD_LINES.splitlines()[0])
    assert rejects.keep() is None
    dropped, _ = await written(tmp_path / "year.jsonl", BAD_LINES)
    dropped.drop()
    assert files(tmp_path) == [tmp_path / "year.jsonl"]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What this process writes fails beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """The option and the reason are told, and what was written is gone: it is about patients."""
    read = await found_in(tmp_path / "year.jsonl", BAD_LINES)
    source = source_from(Asked(file=str(tmp_path / "year.jsonl")), settings())
    rejects = Rejects(source, name="year", path=tmp_path / "apart.jsonl")
    with files_of_at_most(16_384):
        with pytest.raises(UsageError, match=r"--rejects .*apart\.jsonl: cannot be written: File too large"):
            rejects.add(read.rejects * 1_000)
        rejects.drop()
    assert files(tmp_path) == [tmp_path / "year.jsonl"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b c", "a_b_c"),
        ("../x", "_x"),
        ("...", "backfill"),
        ("-rf", "rf"),
        ("ä" * 200, "ä" * 75),
        ("x" + "ä" * 200, "x" + "ä" * 74),
        ("\N{GRINNING FACE}" + "名" * 199, "_" + "名" * 49),
    ],
)
async def test_it_is_called_after_the_backfill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    """In the current directory, whatever the name holds."""
    monkeypatch.chdir(tmp_path)
    read = await found_in(tmp_path / "year.jsonl", BAD_LINES)
    rejects = Rejects(source_from(Asked(file="year.jsonl"), settings()), name=name, path=None)
    rejects.add(read.rejects)
    assert rejects.keep() == Path(f"{expected}.rejects.jsonl")


async def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """With the name and the reason, when the first reject comes."""
    read = await found_in(tmp_path / "year.jsonl", BAD_LINES)
    source = source_from(Asked(file=str(tmp_path / "year.jsonl")), settings())
    with pytest.raises(UsageError, match="nowhere/a: cannot be written: No such file or directory"):
        Rejects(source, name="year", path=tmp_path / "nowhere" / "a").add(read.rejects)


async def test_a_remark_is_one_line(tmp_path: Path) -> None:
    """Whatever a key is called: the line behind it is still read as what it is."""
    line = b'{"appointment_id": "app_1", "a\\nb": 1, "changes": {"room_id": 7}}\n'
    path = (await written(tmp_path / "year.jsonl", line))[0].keep()
    assert path
    assert list((await found(Asked(file=str(path)))).problems) == [2]
