"""What commands print: nothing that steers a terminal, whatever came out of the database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.output import Coloured, painter, print_json, print_line, print_table, table_lines

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


def test_a_coloured_cell() -> None:
    """Columns are as wide as what is seen of them; a colour goes around text that was made printable."""
    row = (Coloured("x\x1b[2J", "red"), Coloured("y", "green"))
    painted = table_lines(("A", "B"), [row], lambda text, colour: f"<{colour}:{text}>")
    assert painted == ["A      B", "<red:x\N{REPLACEMENT CHARACTER}[2J>  <green:y>"]


@pytest.mark.parametrize(
    ("environment", "terminal", "coloured"),
    [
        ({}, True, True),
        ({"NO_COLOR": ""}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_who_gets_colours(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], terminal: bool, coloured: bool
) -> None:
    """A terminal that has colours, unless somebody minds them."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert painter()("text", "red") == ("\x1b[31mtext\x1b[0m" if coloured else "text")
