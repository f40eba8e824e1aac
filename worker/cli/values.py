"""What the values of arguments may be. Each function raises argparse.ArgumentTypeError for what they may not."""

from __future__ import annotations

import argparse
import stat
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

# As for worker.retention_days.
DAYS_MAX = 36_500
# Each look may count a large backlog.
PACE_MIN_S = 0.1


def seconds(text: str) -> float:
    """A time span, in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def pace(text: str) -> float:
    """How often to look, in seconds: ten times a second at the most."""
    value = seconds(text)
    if value < PACE_MIN_S:
        raise argparse.ArgumentTypeError(f"{text!r} is less than {PACE_MIN_S} seconds")
    return value


def days(text: str) -> float:
    """A number of days."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= DAYS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days above 0")
    return value


def positive(text: str) -> int:
    """A whole number above 0 that a bigint holds."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def since(text: str) -> datetime:
    """A point in time: one that is given, or one so long ago."""
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}.get(text[-1:])
    try:
        if unit and text[:-1].isascii() and text[:-1].isdigit() and len(text) < 8:
            return datetime.now(UTC) - timedelta(**{unit: int(text[:-1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time such as 2026-11-24T08:30, nor one ago such as 12h"
        ) from None


def given(text: str) -> str:
    """Any text but none."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; leave it out to mean any")
    return text


def something(text: str) -> str:
    """Any text but none, where leaving it out means something else than all."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text


def count(text: str) -> int:
    """How many changes the demo writes."""
    if not text.isascii() or not text.isdigit() or not 10 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 10 to 100000")
    return int(text)


def whole(text: str) -> int:
    """A whole number, 0 too."""
    if text == "0":
        return 0
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or above") from None


def file(text: str) -> Path:
    """A file that is read."""
    if not text:
        raise argparse.ArgumentTypeError("is empty, and names no file")
    return Path(text)


def no_action(actions: Collection[str]) -> Callable[[str], str]:
    """A file, and no action that stands where it is taken for one."""

    def checked(text: str) -> str:
        path = file(text)
        if text in actions and not path.exists():
            raise argparse.ArgumentTypeError(
                f"there is no file {text}; if it is the action: that comes directly after the command, backfill {text}"
            )
        return text

    return checked


def place(text: str) -> Path:
    """Where a file may be made, beside which one of a similar name may be made, too."""
    path = file(text)
    if _no_file(path):
        raise argparse.ArgumentTypeError(f"{text!r} is no file; it may be one that is not there yet")
    return path


def _no_file(path: Path) -> bool:
    folder = path.parent.resolve()
    if folder == Path("/dev") or folder.is_relative_to("/proc"):  # /dev/stdout may lead to a file
        return True
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # it is not there, or whoever writes it will say why not
        return False


def textfile(text: str) -> Path:
    """A file that node_exporter reads: its textfile collector takes *.prom, and nothing else."""
    if not text.endswith(".prom") or Path(text).name == ".prom":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .prom, and node_exporter reads nothing else")
    return Path(text)
