"""The line that tells how far a source is read."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from worker import clock
from worker.backfill.examining import ReadSoFar
from worker.words import counted

EVERY_S = 0.1


@contextlib.contextmanager
def reading_line() -> Iterator[Callable[[ReadSoFar], None]]:
    """In a terminal, a line on stderr that is gone at the end; elsewhere nothing."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _: None
        return
    shown_at = 0.0

    def show(progress: ReadSoFar) -> None:
        nonlocal shown_at
        if clock.now() - shown_at >= EVERY_S:
            shown_at = clock.now()
            print(f"\r{said(progress)}\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown_at:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def said(progress: ReadSoFar) -> str:
    """Without an end of line."""
    share = "" if progress.share is None else f" ({progress.share:.0%})"
    problems = f", {counted(progress.problems, 'problem')}" if progress.problems else ""
    return f"read {counted(progress.lines, 'line')}{share}{problems}"
