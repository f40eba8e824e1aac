"""Values as JSON that a person may look at: no character in it steers a terminal, or turns the reading direction."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

# Line feeds are the document's own; json.dumps has escaped the others of ASCII but DEL.
_UNSEEN = re.compile(r"[^\n\x20-\x7e]")


def json_text(value: Any, *, indent: int | None = 2, ascii_only: bool = False) -> str:
    """One document; dataclasses are objects, times are ISO 8601."""
    text = json.dumps(value, default=_plain, indent=indent, ensure_ascii=ascii_only)
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    return char if char.isprintable() else json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in the output")
