"""Numbers as a person reads them."""

from __future__ import annotations

import json
import math
import re

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def counted(number: int, noun: str) -> str:
    """1 change, 1,204 changes."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


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


def roughly(seconds: float) -> str:
    """One unit, rounded up, for what nobody knows better: 40 s, 20 min, 17 h, 3 days."""
    for unit, length, upto in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds <= upto * length:
            return f"{math.ceil(seconds / length)} {unit}"
    return f"{math.ceil(seconds / 86_400)} days"


def toml_key(name: str) -> str:
    """The name as a key in TOML: bare, or quoted where it has to be."""
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def visible(name: str) -> str:
    """The name, quoted if it is empty or has blanks at an end, which nobody would see."""
    return name if name and name == name.strip() else json.dumps(name, ensure_ascii=False)
