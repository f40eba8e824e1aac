"""JSON Lines: one object a line, {"appointment_id": "…", "changes": {…}}, `account` optional."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from worker.backfill.inspection import Inspector, unreadable
from worker.backfill.lines import LINE_MAX_BYTES, TOO_LONG, invalid_in, is_remark, is_utf8
from worker.backfill.rows import Reject, Row
from worker.contract import UPDATE_FIELDS, Problem
from worker.errors import SourceError

_KEYS = {"appointment_id", "changes", "account"}
_KEY_MAX_LENGTH = 64
_PLACE = re.compile(r" at line \d+ column (\d+)$")


def rows(lines: Iterator[bytes], inspector: Inspector, *, label: str, encoding: str) -> Iterator[Row | Reject]:
    """What each line makes; blank ones and remarks make nothing. Raises SourceError for what is one JSON document, and
    no JSON Lines."""
    for number, line in enumerate(lines, 1):
        if number == 1:
            _refuse_a_document(line.strip(), label)
        try:
            said = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            if line.strip() and not is_remark(line):
                yield _unreadable(number, line, error, encoding)
            continue
        yield _inspected(number, said, line, inspector)


def _refuse_a_document(first: bytes, label: str) -> None:
    if first == b"{" or first.startswith(b"["):
        raise SourceError(
            f"{label}: is one JSON document, not JSON Lines, which have one object in each line; "
            "jq -c '.[]' FILE makes them out of an array"
        )
    if b"appointment_id" in first and not first.startswith(b"{") and not is_remark(first):
        raise SourceError(f"{label}: line 1 is no JSON, but looks like the header of CSV; is it --format csv?")


def _unreadable(number: int, line: bytes, error: ValueError, encoding: str) -> Reject:
    reason = TOO_LONG if len(line) > LINE_MAX_BYTES else _reason(error) if is_utf8(line) else invalid_in(encoding)
    return unreadable(number, line.strip(), reason)


def _inspected(number: int, said: Any, line: bytes, inspector: Inspector) -> Row | Reject:
    if len(line) > LINE_MAX_BYTES:
        return unreadable(number, line, TOO_LONG)
    if not isinstance(said, dict):
        return unreadable(number, line.strip(), 'is no object such as {"appointment_id": "...", "changes": {...}}')
    found = inspector.inspect(number, said.get("account"), said.get("appointment_id"), said.get("changes"), line)
    if said.keys() <= _KEYS:
        return found
    unknown = tuple(_unknown(name) for name in said if name not in _KEYS)
    known = found.problems if isinstance(found, Reject) else ()
    return Reject(line=number, problems=(*unknown, *known), raw=line)


def _unknown(name: str) -> Problem:
    place = (
        "belongs into changes" if name in UPDATE_FIELDS else "is not a key of a line: appointment_id, changes, account"
    )
    return Problem(name[:_KEY_MAX_LENGTH], place)


def parsed(text: str | bytes) -> Any:
    """The JSON value. Raises ValueError with a reason that holds nothing of the text."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(_reason(error)) from None


def _reason(error: ValueError) -> str:
    return "is not JSON: " + _PLACE.sub(r" (column \1)", str(error))
