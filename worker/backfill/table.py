"""CSV: a header that names the fields, and a record for each change.

An empty cell leaves its field alone, the word for null clears it. Ids are whole numbers, those of `resource_ids` with
semicolons between them (`[]`: none), `confirmed` is true or false; everything else is text, as it stands.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from worker.backfill.inspection import Inspector, unreadable
from worker.backfill.lines import LINE_MAX_BYTES, TOO_LONG, invalid_in, is_remark, is_utf8
from worker.backfill.rows import Reject, Row
from worker.contract import UPDATE_FIELDS
from worker.errors import SourceError
from worker.words import counted

# A note of 255 line breaks has fewer. A quote that is never closed must not take the rest of the file along.
RECORD_MAX_LINES = 1_000

# All that is quoted of a header: what stands in the first line of a file may be data.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)

_NOT_CLOSED = "has a quote that is not closed"
_NOT_DOUBLED = "has a quote in a quoted cell that is not doubled, or a cell that is too long"
_NOT_CLOSED_OR_DOUBLED = "has a quote that is not closed or not doubled, or a cell that is too long"

Cells = list[str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the cells are written."""

    delimiter: str = ","
    null: str = "NULL"


class Record(NamedTuple):
    """One record as it stood: its first line's number, its bytes, and its cells or what is wrong with it."""

    line: int
    raw: bytes
    cells: Cells
    fault: str = ""


class Records:
    """The records of a file, without blank lines and remarks. Memory is bounded whatever its quotes do."""

    def __init__(self, lines: Iterator[bytes], delimiter: str, encoding: str) -> None:
        self._lines = lines
        self._again: deque[bytes] = deque()
        self._delimiter = delimiter
        self._fault = invalid_in(encoding)
        self._number = 0

    def next(self) -> Record | None:
        """The next one; None at the end."""
        while (line := self._next()) is not None:
            if line.strip() and not is_remark(line):
                return self._plain(line) if b'"' not in line else self._quoted(line)
        return None

    def _next(self) -> bytes | None:
        line = self._again.popleft() if self._again else next(self._lines, None)
        self._number += line is not None
        return line

    def _plain(self, line: bytes) -> Record:
        if len(line) > LINE_MAX_BYTES:
            return Record(self._number, line, [], TOO_LONG)
        try:
            line = line.removesuffix(b"\r")
            return Record(self._number, line, line.decode().split(self._delimiter))
        except UnicodeDecodeError:
            return Record(self._number, line, [], self._fault)

    def _quoted(self, line: bytes) -> Record:
        """A record with quotes, which may hold delimiters and line ends."""
        number, used, cells = self._number, [line], Cells()
        try:
            cells = next(csv.reader(self._text(used), delimiter=self._delimiter, strict=True))
            fault = "" if all(map(is_utf8, used)) else self._fault
        except csv.Error:
            fault = _NOT_DOUBLED if len(used) == 1 else _NOT_CLOSED_OR_DOUBLED
        except _Endless:
            fault = _NOT_CLOSED
        if not cells:
            # Which of the quotes is one too many nobody knows: the lines behind it are looked at by themselves.
            self._again.extendleft(reversed(used[1:]))
            self._number = number
            used = [line]
        if len(used[-1]) > LINE_MAX_BYTES:
            fault = TOO_LONG
        return Record(number, b"\n".join(used).removesuffix(b"\r"), cells, fault)

    def _text(self, used: list[bytes]) -> Iterator[str]:
        """The record's lines. What is not valid there keeps its place, so that the record is refused as a whole."""
        yield used[0].decode(errors="surrogateescape")
        size = len(used[0])
        while (line := self._next()) is not None:
            used.append(line)
            size += len(line)
            if len(used) > RECORD_MAX_LINES or size > LINE_MAX_BYTES:
                break
            yield "\n" + line.decode(errors="surrogateescape")
        raise _Endless


class _Endless(Exception):
    """A quoted cell has no end within reach."""


class Table:
    """A header that was understood, and what its columns make of a record."""

    def __init__(self, records: Records, dialect: Dialect, label: str) -> None:
        """Reads the header. Raises SourceError, which names what is wrong with it."""
        header = records.next()
        self.header = header.raw if header else b""
        """As it stands in the file, in UTF-8."""
        self._records = records
        self._null = dialect.null
        names = header.cells if header else []
        if header:
            _refuse_a_header(header, dialect.delimiter, label)
        self._width = len(names)
        self._account = names.index("account") if "account" in names else None
        self._appointment = names.index("appointment_id") if header else 0
        self._fields = [(at, name, _converter(name)) for at, name in enumerate(names) if name in UPDATE_FIELDS]

    def rows(self, inspector: Inspector) -> Iterator[Row | Reject]:
        """What each record makes."""
        while (record := self._records.next()) is not None:
            yield self._row(record, inspector)

    def _row(self, record: Record, inspector: Inspector) -> Row | Reject:
        line, raw, cells, fault = record
        if fault:
            return unreadable(line, raw, fault)
        if len(cells) != self._width:
            return unreadable(line, raw, f"has {counted(len(cells), 'cell')}, and the header has {self._width}")
        null = self._null
        changes = {
            name: None if cells[at] == null else convert(cells[at]) for at, name, convert in self._fields if cells[at]
        }
        if not changes:
            return unreadable(line, raw, "sets nothing: every cell of a field is empty")
        account = self._given(cells[self._account]) if self._account is not None else None
        return inspector.inspect(line, account, self._given(cells[self._appointment]), changes, raw)

    def _given(self, cell: str) -> str | None:
        return None if cell in ("", self._null) else cell


def _refuse_a_header(header: Record, delimiter: str, label: str) -> None:
    """Names what is no column of ours only where all of it looks like a header: else it may be data."""
    names = header.cells
    if header.raw.lstrip().startswith(b"{"):
        raise SourceError(
            f"{label}: line {header.line} is no header of CSV, but looks like JSON Lines; is it --format jsonl?"
        )
    if b"\r" in header.raw and b"\n" not in header.raw:
        raise SourceError(
            f"{label}: line {header.line}, the header, has a carriage return in it; if its lines end in CR alone, as "
            "Excel's CSV (Macintosh) has them: tr '\\r' '\\n' < FILE makes them lines"
        )
    if header.fault:
        raise SourceError(f"{label}: line {header.line}, the header, {header.fault}")
    if "appointment_id" not in names:
        other = next((mark for mark in ";,\t|" if mark != delimiter and mark in names[0]), None)
        hint = f"; is it --delimiter {other!r}?" if len(names) == 1 and other else ""
        raise SourceError(f"{label}: line {header.line} is no header of CSV: no column is appointment_id{hint}")
    unknown = [at for at, name in enumerate(names) if name not in COLUMNS]
    if unknown:
        listed = ", ".join(_listed(names, unknown[:10]))
        raise SourceError(f"{label}: the header has columns that are none of a change: {listed}; there are {_KNOWN}")
    if len(set(names)) < len(names):
        twice = ", ".join(sorted({name for name in names if names.count(name) > 1}))
        raise SourceError(f"{label}: the header has columns more than once: {twice}")
    if not set(names) & UPDATE_FIELDS:
        raise SourceError(f"{label}: the header names nothing to set; there are {_KNOWN}")


def _listed(names: Cells, unknown: list[int]) -> list[str]:
    """By their names, or by their numbers where one of the header's cells does not look like a name."""
    if all(_NAME.fullmatch(name) or not name for name in names):
        return [names[at] or "(empty)" for at in unknown]
    return [f"number {at + 1}" for at in unknown]


COLUMNS = UPDATE_FIELDS | {"appointment_id", "account"}
_KNOWN = ", ".join(("appointment_id", "account", *sorted(UPDATE_FIELDS)))

Convert = Callable[[str], Any]


def _converter(name: str) -> Convert:
    """What cannot be converted stays text, which the contract then refuses where it is to be something else."""
    if name in ("note", "starts_at", "ends_at"):
        return str
    if name == "confirmed":
        return lambda cell: {"true": True, "false": False}.get(cell.lower(), cell)
    if name == "resource_ids":
        return lambda cell: [] if cell == "[]" else [_id(part) for part in cell.split(";")]
    return _id


def _id(cell: str) -> int | str:
    """Without leading zeros: 007 is another id than 7, where ids may be text."""
    whole = cell.isascii() and cell.isdigit() and len(cell) <= 20 and (cell[0] != "0" or cell == "0")
    return int(cell) if whole else cell
