"""What commands print for people and for programs: tables and JSON."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any, Literal

from worker.privacy import printable


def print_line(text: str) -> None:
    """One line. What came out of a database may hold anything; a terminal is sent nothing but text."""
    print(printable(text))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns under their names; the last one may be long. None is shown as -."""
    texts = [list(header), *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header) - 1)]
    for row in texts:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())


def print_json(value: Any) -> None:
    """One JSON document; dataclasses are objects, times are ISO 8601. No character in it steers a terminal."""
    text = json.dumps(value, default=_plain, indent=2, ensure_ascii=sys.stdout.encoding.lower() != "utf-8")
    print(_UNSEEN.sub(_escaped, text))


Colour = Literal["green", "yellow", "red", "grey"]

_COLOURS: dict[Colour, int] = {"green": 32, "yellow": 33, "red": 31, "grey": 90}


def paint(text: str, colour: Colour) -> str:
    """In this colour where stdout is a terminal that shows some, and nobody set NO_COLOR (no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def local_time(at: datetime) -> str:
    """To the second, in the zone of whoever reads it."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Two units at most: 4d 3h, 12m 5s, 0.4s."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    left = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def counted(number: int, noun: str) -> str:
    """1 change, 2 changes."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# Line feeds are the document's own; json.dumps has escaped the others of ASCII but DEL.
_UNSEEN = re.compile(r"[^\n\x20-\x7e]")


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    return char if char.isprintable() else json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"


def _cell(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in the output")
