"""A source of a backfill, made up: lines that are as valid as a test says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from worker.backfill.rows import Batch, Reject, Row
from worker.contract import Problem


def row(line: int, appointment_id: str, changes: Mapping[str, Any], *, account: str = "default") -> Row:
    """A valid line."""
    text = json.dumps(changes, sort_keys=True)
    digest = hashlib.blake2b(json.dumps([account, appointment_id, text]).encode(), digest_size=16)
    return Row(
        line=line,
        account=account,
        appointment_id=appointment_id,
        changes=text,
        fields=tuple(changes),
        cleared=tuple(name for name, value in changes.items() if value is None),
        digest=UUID(bytes=digest.digest()),
    )


def reject(line: int, *problems: tuple[str, str]) -> Reject:
    """A line that is no valid change, by fields and reasons."""
    return Reject(line=line, problems=tuple(Problem(*problem) for problem in problems), raw=b"")


class MadeUp:
    """Yields the lines in batches of `at_once`; its size is the number of lines."""

    name = "may.csv"

    def __init__(self, lines: Iterable[Row | Reject], *, at_once: int = 2) -> None:
        self._lines: Sequence[Row | Reject] = list(lines)
        self._at_once = at_once
        self.size: int | None = len(self._lines)
        self.closed = False

    async def batches(self) -> AsyncIterator[Batch]:
        try:
            for start in range(0, len(self._lines), self._at_once):
                lines = self._lines[start : start + self._at_once]
                yield Batch(
                    rows=tuple(line for line in lines if isinstance(line, Row)),
                    rejects=tuple(line for line in lines if isinstance(line, Reject)),
                    read=start + len(lines),
                )
        finally:
            self.closed = True
