"""What commands print: nothing that steers a terminal, whatever came out of the database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.output import counted, duration, print_json, print_line, print_table

Captured = pytest.CaptureFixture[str]


@given(text=st.text())
def test_a_line_is_a_line(text: str) -> None:
    """Any text becomes one line of text; what can be printed stays as it was."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_line(text)
    line = out.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert not text.isprintable() or line == text + "\n"


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)
    )
)
def test_json_is_what_it_was(value: Any) -> None:
    """A program reads back the very value; every line of it can be printed."""
    import contextlib
    import io

    class Utf8(io.StringIO):
        encoding = "utf-8"  # type: ignore[assignment]

    with contextlib.redirect_stdout(Utf8()) as out:
        print_json(value)
    assert json.loads(out.getvalue()) == value
    assert all(line.isprintable() for line in out.getvalue().split("\n"))


@dataclass(frozen=True)
class _Row:
    at: datetime
    ids: tuple[int, ...]


def test_json_of_our_own(capsys: Captured) -> None:
    """Dataclasses are objects, times ISO 8601; anything else is a fault of ours."""
    print_json([_Row(datetime(2026, 11, 24, 8, tzinfo=UTC), (1, 2))])
    assert json.loads(capsys.readouterr().out) == [{"at": "2026-11-24T08:00:00+00:00", "ids": [1, 2]}]
    with pytest.raises(TypeError, match="set has no place"):
        print_json({1})


def test_a_table(capsys: Captured) -> None:
    """Columns are as wide as their widest cell but for the last; None is a dash; no cell breaks its line."""
    print_table(("A", "LONG", "TEXT"), [(1, None, "a\nb\x1b[2J"), (22, "x" * 6, None)])
    assert (
        capsys.readouterr().out
        == "A   LONG    TEXT\n1   -       a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[2J\n22  xxxxxx  -\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (0.44, "0.4s"),
        (9.99, "10.0s"),
        (10, "10s"),
        (59.6, "1m 0s"),
        (725, "12m 5s"),
        (3600, "1h 0m"),
        (356_400, "4d 3h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """Two units at most."""
    assert duration(seconds) == text


def test_counts() -> None:
    """One is not many."""
    assert [counted(number, "change") for number in (0, 1, 2)] == ["0 changes", "1 change", "2 changes"]
