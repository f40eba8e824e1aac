"""`caspen-sync demo`: live progress in a terminal, plain lines elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.demo import Progress, run_demo
from worker.errors import ExitCode


def run(args: argparse.Namespace) -> int:
    """Runs the demo to its end or to a signal."""
    with _display() as (show, say):
        asyncio.run(run_demo(changes=args.changes, keep=args.keep, show=show, say=say))
    return ExitCode.OK


Display = tuple[Callable[[Progress], None], Callable[[str], None]]


@contextmanager
def _display() -> Iterator[Display]:
    if sys.stdout.isatty():
        with _bar() as display:
            yield display
    else:
        yield _plain_lines()


def _plain_lines() -> Display:
    """One line for each tenth of the work."""
    shown = -1

    def show(progress: Progress) -> None:
        nonlocal shown
        tenth = 10 * progress.done // progress.total
        if tenth != shown:
            shown = tenth
            say(f"{progress.done} of {progress.total} changes done, {progress.requests} requests")

    def say(line: str) -> None:
        print(line, flush=True)

    return show, say


@contextmanager
def _bar() -> Iterator[Display]:
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
    except ImportError:
        yield _plain_lines()
        return
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[requests]} requests"),
        TimeElapsedColumn(),
        transient=True,  # the summary says it all once it is done
    )
    with bar:
        task = bar.add_task("changes", total=None, requests=0, visible=False)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.total,
                completed=progress.done,
                requests=progress.requests,
                visible=progress.pending > 0,
            )

        def say(line: str) -> None:
            bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

        yield show, say
