"""Asking back, before something is done that cannot be undone."""

from __future__ import annotations

import sys

from worker.cli.terminal import interruptible


def confirmed(what: str, count: int) -> bool:
    """In a terminal, whoever means many says how many. `what` would be done: "discard 12 parked changes"."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    try:
        with interruptible():
            answer = input(f"{what}? Type {count} to go on: ")
    except EOFError:
        print()
        return False
    except KeyboardInterrupt:
        print("\nnothing was changed")
        raise
    return answer.strip() == str(count)
