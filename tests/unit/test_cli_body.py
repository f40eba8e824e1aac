"""Where a change's new body comes from, and what is said of one that is none: never what it holds."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.support.canary import NOTE
from worker.cli.body import ask_for_body
from worker.errors import UsageError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value (line 1, column 1)"),
        (f'{{"note": "{NOTE}",}}', "line 1, column"),
        (f'{{"note": "{NOTE}"}}\n{{}}', "Extra data (line 2, column 1)"),
        (f'["{NOTE}"]', "no JSON object"),
        (f'"{NOTE}"', "no JSON object"),
        ("null", "no JSON object"),
        ('{"note": ' + "[" * 100_000, "no JSON that could be sent"),
        ('{"room_id": ' + "9" * 5000 + "}", "no JSON that could be sent"),
    ],
)
def test_what_is_no_json_object(text: str, words: str, tmp_path: Path) -> None:
    """The file and the place are named, and nothing of the text."""
    file = tmp_path / "body.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        ask_for_body(file, {})
    assert str(error.value).startswith(f"parked edit: {file} is no JSON")
    assert words in str(error.value)
    assert "nothing was changed" in str(error.value)
    assert NOTE not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, or not UTF-8: said so, with the file's name."""
    (tmp_path / "latin").write_bytes(b'{"note": "na\xefve"}')
    for name, reason in (("gone", "No such file"), (".", "Is a directory"), ("latin", "is not UTF-8")):
        with pytest.raises(UsageError, match=reason):
            ask_for_body(tmp_path / name, {})


@pytest.mark.parametrize("file", [None, Path("-")])
def test_standard_input_is_utf8(file: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the terminal's own encoding is: a note must not turn into other characters on its way."""
    text = '{"note": "naïve ☃"}'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="latin-1"))
    assert ask_for_body(file, {}) == {"note": "naïve ☃"}
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode("latin-1", "replace")), encoding="latin-1")
    )
    with pytest.raises(UsageError, match="standard input is not UTF-8"):
        ask_for_body(file, {})
