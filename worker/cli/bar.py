"""Showing how far something is, on stderr: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker import clock, privacy

# In a pipe, there is a line for every so many seconds at the most.
LINE_EVERY_S = 10.0
# Of a longer name, its beginning: the bar needs room. The count beside it is always whole.
NAME_COLUMNS = 30
NAME_COLUMNS_AT_LEAST = 8
BAR_COLUMNS_AT_LEAST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How far it is."""

    name: str
    done: int
    total: int
    said: str
    """The same in words."""
    besides: str = ""
    """What else there is to say."""


@contextlib.contextmanager
def shown() -> Iterator[Callable[[Stage], None]]:
    """Shows what it is given, until its end."""
    in_place = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    with _bar() if in_place else _lines() as show:
        yield show


@contextlib.contextmanager
def _lines() -> Iterator[Callable[[Stage], None]]:
    said_at: float | None = None
    newest = said = ""

    def say() -> None:
        nonlocal said, said_at
        if newest != said:
            privacy.say(newest, level="info")
        said, said_at = newest, clock.now()

    def show(stage: Stage) -> None:
        nonlocal newest
        newest = f"{stage.name}: {'; '.join(filter(None, (stage.said, stage.besides)))}"
        if said_at is None or clock.now() - said_at >= LINE_EVERY_S:
            say()

    try:
        yield show
    finally:
        say()


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Stage], None]]:
    # A tenth of a second, that only who sees a bar waits for.
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    # Log lines go above the bar. No thread draws it: what is new comes with `show`.
    live = Live(console=console, auto_refresh=False)

    def show(stage: Stage) -> None:
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(no_wrap=True, overflow="ellipsis", max_width=_name_columns(console.width, stage.said))
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(total=max(1, stage.total), completed=stage.done)
        row.add_row(Text(_text(stage.name)), bar, Text(_text(stage.said)))
        with contextlib.suppress(OSError):  # the terminal was closed; the work goes on until it is told to stop
            live.update(Group(row, *([Text(_text(stage.besides))] if stage.besides else [])), refresh=True)

    try:
        with contextlib.suppress(OSError):
            live.start()
            # Whatever ends this process, or Ctrl-Z, the shell has its cursor.
            console.show_cursor(True)
        yield show
    finally:
        with contextlib.suppress(OSError):
            live.stop()


def _name_columns(width: int, said: str) -> int:
    return min(NAME_COLUMNS, max(NAME_COLUMNS_AT_LEAST, width - len(said) - BAR_COLUMNS_AT_LEAST))


def _text(said: str) -> str:
    return privacy.printable(privacy.redacted(said))
