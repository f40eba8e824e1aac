"""A terminal with a person at it: `caspen-sync` on a pty of its own, which Ctrl-C reaches as it does anybody's."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from tests.support import canary
from tests.support.waiting import eventually

CTRL_C = "\x03"
CTRL_D = "\x04"
CTRL_Z = "\x1a"


@dataclass(slots=True)
class Terminal:
    """What the command has shown so far, and its keyboard."""

    process: asyncio.subprocess.Process
    _keyboard: int
    _seen: bytearray = field(default_factory=bytearray)

    @property
    def screen(self) -> str:
        return self._seen.decode(errors="replace")

    @property
    def picture(self) -> list[str]:
        """The lines as a person sees them now, those that scrolled off the top too."""
        return _drawn(self.screen)

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        """As a person drags the window's corner; the command is told by SIGWINCH."""
        fcntl.ioctl(self._keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def echoes(self) -> bool:
        """Whether what is typed is shown, as in a shell."""
        return bool(termios.tcgetattr(self._keyboard)[3] & termios.ECHO)

    async def shows(self, text: str) -> None:
        await eventually(lambda: text in self.screen, what=f"the terminal shows {text!r}")

    async def ended(self) -> int:
        """The exit code, once everything that was said is on the screen."""
        async with asyncio.timeout(30):
            exit_code = await self.process.wait()
        self._read()
        return exit_code

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nobody holds the other end any more, or there is nothing yet
            while data := os.read(self._keyboard, 65_536):
                self._seen += data


_STEP = re.compile(r"\x1b\[(?P<number>\d*)(?P<what>[A-Za-z])|\x1b\[[?\d;]*[A-Za-z]|(?P<char>.)", re.DOTALL)


def _drawn(written: str) -> list[str]:
    """Follows what moves the cursor up and what clears a line; colours are nothing to see here."""
    lines, row, column = [""], 0, 0
    for step in _STEP.finditer(written):
        match step["what"], step["char"]:
            case "A", _:
                row = max(0, row - int(step["number"] or 1))
            case "K", _:
                lines[row] = ""
            case _, "\r":
                column = 0
            case _, "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            case _, str(char):
                lines[row] = lines[row][:column].ljust(column) + char + lines[row][column + 1 :]
                column += 1
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]


@contextlib.asynccontextmanager
async def at_a_terminal(
    *args: str, env: Mapping[str, str], module: str = "worker", columns: int | None = None
) -> AsyncIterator[Terminal]:
    """Starts `caspen-sync ARGS`, or another program, there; ended at the end. What it showed is searched as any output
    is."""
    ours, theirs = pty.openpty()
    if columns is not None:
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.set_blocking(ours, False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *args),
        env=dict(env),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    terminal = Terminal(process, ours)
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, terminal._read)
    try:
        yield terminal
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        loop.remove_reader(ours)
        os.close(ours)
        canary.watch(terminal.screen, where=f"terminal of process {process.pid}")
