"""The streams and the signals of a command that talks to a person."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn, TextIO


def prepare_streams() -> None:
    """A stream that the caller closed reads nothing and takes everything; a character that stdout's encoding does not
    have is written as its number."""
    # In the order of their numbers, so that each takes its own and no connection to Postgres does.
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:  # or print would take stdout instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """Nothing more can be written there, not even what is left in the buffer at exit."""
    _lead_nowhere(sys.stdout)


@contextlib.contextmanager
def whoever_reads() -> Iterator[None]:
    """What is written within goes to stdout if that takes it. A reader who has gone, a full disk or a terminal that was
    closed costs what was to be said, and neither the work nor its exit code."""
    try:
        yield
        sys.stdout.flush()
    except OSError:
        give_up_stdout()


@contextlib.contextmanager
def enough_read() -> Iterator[None]:
    """Raises OSError when what is written within cannot be, since it is all there is to get. A reader who has gone has
    seen enough."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        give_up_stdout()


def empty_stderr() -> None:
    """What is left in the buffer and cannot be written would otherwise make Python's exit code out of ours: 120."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _lead_nowhere(sys.stderr)


def _lead_nowhere(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """While a person is waited for, Ctrl-C ends the command at once; asyncio would only do so at its next turn."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def beside_an_editor() -> Iterator[None]:
    """While an editor is open, Ctrl-C is its own business; what else ends us raises, so that no file is left behind."""
    handlers = {signal.SIGINT: _leave_it, signal.SIGTERM: _end, signal.SIGHUP: _end}
    # Not SIG_IGN: the editor would inherit that.
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_it(_number: int, _frame: FrameType | None) -> None:
    """Nothing."""


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
