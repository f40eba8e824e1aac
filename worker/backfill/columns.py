"""What the columns of a query say of an appointment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from worker.backfill.inspection import Inspector
from worker.backfill.jsonl import parsed
from worker.backfill.rows import Reject, Row
from worker.contract import UPDATE_FIELDS, Problem
from worker.errors import SourceError

_KNOWN = ", ".join(("appointment_id", "account", "changes", *sorted(UPDATE_FIELDS)))

# What asyncpg makes of infinity and -infinity, whether the type has a time zone or not.
_INFINITE = (datetime.max, datetime.min)  # noqa: DTZ901


class Columns:
    """The columns by their names: appointment_id, perhaps account, and changes or fields."""

    def __init__(self, names: Sequence[str], label: str) -> None:
        """Raises SourceError for names of which no change can be made."""
        if problem := _problem(names):
            raise SourceError(f"{label}: {problem}")
        self._appointment = names.index("appointment_id")
        self._account = names.index("account") if "account" in names else None
        self._changes = names.index("changes") if "changes" in names else None
        self._fields = [(at, name) for at, name in enumerate(names) if name in UPDATE_FIELDS]

    def inspected(self, number: int, record: Sequence[Any], inspector: Inspector) -> Row | Reject:
        """What one row makes."""
        problems: list[Problem] = []
        account = _plain(record[self._account], "account", problems) if self._account is not None else None
        appointment_id = _plain(record[self._appointment], "appointment_id", problems)
        if isinstance(appointment_id, int) and not isinstance(appointment_id, bool):
            appointment_id = str(appointment_id)
        changes = self._said(record, problems)
        raw = _as_line(account, appointment_id, changes)
        found = inspector.inspect(number, account, appointment_id, changes, raw)
        if not problems:
            return found
        named = {problem.field for problem in problems}
        others = [one for one in found.problems if one.field not in named] if isinstance(found, Reject) else []
        return Reject(line=number, problems=(*problems, *others), raw=raw)

    def _said(self, record: Sequence[Any], problems: list[Problem]) -> Any:
        if self._changes is None:
            return {name: _plain(record[at], name, problems) for at, name in self._fields}
        text = record[self._changes]
        if not isinstance(text, str):
            reason = "is null" if text is None else "must be jsonb, json or text"
            problems.append(Problem("changes", reason))
            return None
        try:
            return parsed(text)
        except ValueError as error:
            problems.append(Problem("changes", str(error)))
            return text


def _problem(names: Sequence[str]) -> str:
    if not names:
        return "returns no rows; it must be a SELECT"
    unknown = [name for name in names if name not in UPDATE_FIELDS | {"appointment_id", "account", "changes"}]
    if unknown:
        return f"has columns that are none of a change: {', '.join(unknown[:10])}; there are {_KNOWN}"
    if len(set(names)) < len(names):
        return f"has columns more than once: {', '.join(sorted({name for name in names if names.count(name) > 1}))}"
    if "appointment_id" not in names:
        return "has no column appointment_id"
    fields = UPDATE_FIELDS.intersection(names)
    if "changes" in names and fields:
        return "has the column changes, and columns of fields beside it; it must be the one or the others"
    return "" if "changes" in names or fields else f"names nothing to set; there are {_KNOWN}"


def _plain(value: Any, name: str, problems: list[Problem]) -> Any:
    """The value as JSON has it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal) and value == value.to_integral_value() and abs(value) < 2**64:
        return int(value)
    if isinstance(value, datetime):
        if value in _INFINITE:
            problems.append(Problem(name, "is infinite, and must be a point in time"))
        elif value.tzinfo is None:
            problems.append(
                Problem(name, "has no time zone: select it AT TIME ZONE 'Europe/Vienna', or whichever it is")
            )
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(item, name, problems) for item in value]
    problems.append(Problem(name, "is of a type that no field can hold"))
    return str(value)


def _as_line(account: Any, appointment_id: Any, changes: Any) -> bytes:
    """The row as a line of JSON Lines, in which it can be mended."""
    line = {"account": account, "appointment_id": appointment_id, "changes": changes}
    return json.dumps(line if account is not None else {k: line[k] for k in ("appointment_id", "changes")}).encode()
