"""A line for a person."""

from __future__ import annotations

import contextlib
import sys


def complain(message: str) -> None:
    """Says on stderr what a person should know. The exit code stands even when nobody can read it."""
    with contextlib.suppress(OSError, ValueError):
        for line in message.splitlines():
            print(f"caspen-sync: {line}", file=sys.stderr)
