"""`--watch`: the same again and again, until Ctrl-C or, in a terminal, q."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import termios
import tty
import unicodedata
from collections.abc import Awaitable, Callable, Iterator, Sequence

Look = Callable[[], Awaitable[Sequence[str] | None]]
Show = Callable[[Sequence[str]], None]

_ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, so that what was there before comes back; without a cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
_COLOUR = re.compile(r"(\x1b\[\d*m)")


async def watch(look: Look, *, every_s: float, in_place: bool = True) -> None:
    """Shows the lines that `look` returns, every `every_s` seconds, until SIGINT, SIGTERM or q: in place when stdout is
    a terminal and `in_place`, one after the other otherwise. When `look` returns None it has shown them itself."""
    resized = asyncio.Event()
    with _shower(in_place, resized) as show:
        going_on = asyncio.ensure_future(_go_on(look, show, every_s, resized))
        with _until(going_on.cancel), _on(signal.SIGWINCH, resized.set), contextlib.suppress(asyncio.CancelledError):
            await going_on


def terminal_size() -> os.terminal_size:
    """Columns and lines of the terminal that stdout is; where it does not know, those that one has."""
    size = os.get_terminal_size(sys.stdout.fileno())
    return os.terminal_size((size.columns or 80, size.lines or 24))


async def _go_on(look: Look, show: Show, every_s: float, again: asyncio.Event) -> None:
    while True:
        again.clear()
        lines = await look()
        if lines is not None:
            show(lines)
        sys.stdout.flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await again.wait()


@contextlib.contextmanager
def _shower(in_place: bool, again: asyncio.Event) -> Iterator[Show]:
    if not in_place or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        yield _one_after_the_other
        return
    print(_ENTER, end="", flush=True)
    try:
        with _stoppable(again):
            yield _in_place
    finally:
        print(_LEAVE, end="", flush=True)


@contextlib.contextmanager
def _stoppable(again: asyncio.Event) -> Iterator[None]:
    """Ctrl-Z gives the terminal back as it was; once the process goes on, it is taken again, and `again` is set."""
    terminal = sys.stdout.fileno()
    before = termios.tcgetattr(terminal)

    def stop() -> None:
        ours = termios.tcgetattr(terminal)
        print(_LEAVE, end="", flush=True)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        # What it does by default, and not SIGSTOP: where no shell could wake it again, the kernel ignores it.
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, stop)
        termios.tcsetattr(terminal, termios.TCSADRAIN, ours)
        print(_ENTER, end="", flush=True)
        again.set()

    loop = asyncio.get_running_loop()
    with _on(signal.SIGTSTP, stop):
        yield


def _one_after_the_other(lines: Sequence[str]) -> None:
    print(*lines, "", sep="\n")


def _in_place(lines: Sequence[str]) -> None:
    """Written over what is there, line by line: a screen that is cleared first flickers."""
    width, height = terminal_size()
    if len(lines) > height:
        lines = [*lines[: height - 1], f"and {len(lines) - height + 1} more lines"]
    # Cleared before it is written: after a line that fills the width, some terminals would clear its last column.
    *upper, last = [cut(line, width) for line in lines]
    rows = "".join(f"{_CLEAR_LINE}{line}\n" for line in upper)
    print(f"{_HOME}{rows}{_CLEAR_REST}{last}", end="", flush=True)


@contextlib.contextmanager
def _until(end: Callable[[], object]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            stack.enter_context(_on(number, end))
        if sys.stdin.isatty() and sys.stdout.isatty():
            stack.enter_context(_key("q", end))
        yield


@contextlib.contextmanager
def _on(number: signal.Signals, do: Callable[[], object]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(number, do)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)


@contextlib.contextmanager
def _key(key: str, do: Callable[[], object]) -> Iterator[None]:
    """Keys are read one by one and not shown; Ctrl-C is a signal still."""
    keyboard = sys.stdin.fileno()
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        if key.encode() in os.read(keyboard, 1024):
            do()

    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def cut(line: str, width: int) -> str:
    """As much of the line as fits into so many columns. Colours take none, and are ended where the line is."""
    kept, left, coloured = [], width, False
    for part in _COLOUR.split(line):
        if _COLOUR.fullmatch(part):
            kept.append(part)
            coloured = part not in ("\x1b[0m", "\x1b[m")
            continue
        for char in part:
            left -= _columns(char)
            if left < 0:
                return "".join([*kept, "\x1b[0m" if coloured else ""])
            kept.append(char)
    return "".join(kept)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
