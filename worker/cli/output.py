"""What commands print for people and for programs: tables, colours and JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from worker.jsontext import json_text
from worker.privacy import printable

Colour = Literal["green", "yellow", "red", "grey"]
Paint = Callable[[str, Colour], str]

_CODES: dict[Colour, int] = {"red": 31, "green": 32, "yellow": 33, "grey": 90}


@dataclass(frozen=True, slots=True)
class Coloured:
    """A table's cell with a colour of its own."""

    text: str
    colour: Colour


def painter() -> Paint:
    """What colours a text for stdout: not at all unless that is a terminal that has colours, and nobody minds them
    (https://no-color.org)."""
    coloured = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    return _colour if coloured else lambda text, _: text


def _colour(text: str, colour: Colour) -> str:
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def print_line(text: str) -> None:
    """One line. What came out of a database may hold anything; a terminal is sent nothing but text."""
    print(printable(text))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns under their names; the last one may be long. None is shown as -."""
    for line in table_lines(header, rows, painter()):
        print(line)


def table_lines(header: Sequence[str], rows: Sequence[Sequence[object]], paint: Paint) -> list[str]:
    """The lines of that table. A cell that is Coloured is painted."""
    texts = [list(header), *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header) - 1)] + [0]
    lines = []
    for texts_of_row, row in zip(texts, [header, *rows], strict=True):
        cells = [text.ljust(width) for text, width in zip(texts_of_row, widths, strict=True)]
        cells[-1] = cells[-1].rstrip()
        painted = [
            paint(text, cell.colour) if isinstance(cell, Coloured) else text
            for text, cell in zip(cells, row, strict=True)
        ]
        lines.append("  ".join(painted).rstrip())
    return lines


def print_json(value: Any, *, on_one_line: bool = False) -> None:
    """One JSON document; dataclasses are objects, times are ISO 8601. No character in it steers a terminal."""
    ascii_only = sys.stdout.encoding.lower() != "utf-8"
    print(json_text(value, indent=None if on_one_line else 2, ascii_only=ascii_only))


def local_time(at: datetime | None) -> str:
    """To the second, in the zone of whoever reads it; "-" where there is none."""
    return "-" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _cell(value: object) -> str:
    text = value.text if isinstance(value, Coloured) else value
    return "-" if text is None else printable(str(text))
