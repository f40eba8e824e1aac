"""What a source yields: lines that may become changes, and lines that may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from worker.contract import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One valid line: what it sets in one appointment."""

    line: int
    """From 1; where a record takes several lines, its first. Of a query: the number of its row."""
    account: str
    appointment_id: str
    changes: str = field(repr=False)
    """The JSON object to send, as Postgres can hold it."""
    fields: tuple[str, ...]
    """The names in `changes`."""
    cleared: tuple[str, ...]
    """Those of them that are null."""
    digest: UUID
    """Of account, appointment and changes: equal lines have equal ones, whatever the order of their keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """One line that is no valid change, and why. Neither repr nor problems hold a value of it."""

    line: int
    problems: tuple[Problem, ...]
    raw: bytes = field(repr=False)
    """As it stood in the source, without its line end, so that it can be mended and given back; in UTF-8, whatever the
    source is written in, except for what is not valid there. Of a query: as a line of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some consecutive lines of a source, in their order."""

    rows: tuple[Row, ...]
    rejects: tuple[Reject, ...]
    read: int
    """Bytes of the source that were read so far (of a query: rows)."""


class Source(Protocol):
    """Where lines come from. What is read is never held as a whole."""

    @property
    def name(self) -> str:
        """What the backfill is called unless it is told."""

    @property
    def size(self) -> int | None:
        """Bytes in all, where that is known."""

    def batches(self) -> AsyncIterator[Batch]:
        """The lines, some thousand at a time. Raises SourceError when the source cannot be read on."""
