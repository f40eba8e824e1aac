"""A line for a person."""

from __future__ import annotations

from worker import privacy


def complain(message: str) -> None:
    """Says on stderr what a person should know. The exit code stands even when nobody can read it."""
    privacy.say(message)
