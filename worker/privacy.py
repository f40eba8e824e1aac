"""Privacy: everything that a process says passes here, and what may be said is decided here.

    what is said                                   what is left of it
    a log event                                    the fields that FIELDS declares, with the values that it allows
    an uncaught exception, in any thread or task   types and places, never the message
    a record of a library's log, a warning         who said it and where, never the message
    all of it, and lines for a person              without the secrets that were read

Messages of other people's exceptions quote what they stumbled over (pydantic, json, asyncpg, aiohttp), and library logs
quote reprs: with us, a note about a patient. A place in the code says as much to whoever mends it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import resource
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, TextIO
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from worker import journald

# -- secrets ---------------------------------------------------------------------------------------------------------

# A password such as "clinic" would black out half of what an outage is diagnosed by, and by that be given away.
SHORTEST_SECRET = 8

_secrets: set[str] = set()


def withhold(secret: str) -> None:
    """From now on, this is never said. For tokens and passwords, when they are read."""
    if len(secret) >= SHORTEST_SECRET:
        _secrets.update((secret, quote(secret, safe="")))


def withhold_passwords(url: str) -> None:
    """The same for the passwords in a URL, as they are written there and as they are meant."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        written = parts.password or ""
        for secret in (written, unquote(written), *(v for k, v in parse_qsl(parts.query) if "password" in k)):
            withhold(secret)


def redacted(text: str) -> str:
    """The text without the secrets that are known."""
    for secret in sorted(_secrets, key=len, reverse=True):  # one may be a part of another
        text = text.replace(secret, "[withheld]")
    return text


# -- log events ------------------------------------------------------------------------------------------------------

Check = Callable[[Any], bool]

_WORD = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def _word(value: Any) -> bool:
    """One of our own names, as opposed to a sentence: nothing was formatted into it."""
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _text(value: Any) -> bool:
    """Written by us, or an identifier."""
    return isinstance(value, str)


def _all(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _counts(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and all(k is None or _text(k) for k in value) and all(map(_number, value.values()))
    )


# Every field that an event may have, and what its value may be; None always may. A field that is not here, or not so,
# is left out of the event, which then names it as withheld: a test that sees that fails.
FIELDS: Mapping[str, Check] = {
    # on every event
    "event": _word,
    "level": _word,
    "timestamp": _text,
    "worker": _text,
    # what it is about
    "account": _text,
    "accounts": _all(_text),
    "appointment_id": _text,
    "change_id": _number,
    "kind": _word,
    "outcome": _word,
    "http_status": _number,
    "exit_code": _number,
    "once": _number,
    "address": _text,
    # why: sentences of ours, and the fields of a body by their names
    "error": _text,
    "reason": _text,
    "reasons": _counts,
    "fields": _all(_word),
    "parts": _all(_word),
    "at": _all(_text),
    "logger": _text,
    # how much
    **dict.fromkeys(("for_s", "asked_s", "times", "configured", "told", "used", "held_back"), _number),
    **dict.fromkeys(
        ("duration_ms", "wait_s", "attempt", "attempts", "appointments", "changes", "claims", "lines"), _number
    ),
    **dict.fromkeys(("requests", "synced", "parked", "folded", "mismatches", "lease_lost", "undelivered"), _number),
    **dict.fromkeys(("answered", "batch"), _number),
}


def screened(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """The last of structlog's processors before the one that writes: the event as it may be said."""
    kept = {name: _clean(value) for name, value in event.items() if _allowed(name, value)}
    withheld = [redacted(str(name)) for name in event if name not in kept]
    return kept | {"withheld": withheld} if withheld else kept


def _allowed(name: str, value: Any) -> bool:
    check = FIELDS.get(name)
    return check is not None and (value is None or check(value))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, Mapping):
        return {_clean(key): item for key, item in value.items()}
    return value


# -- exceptions ------------------------------------------------------------------------------------------------------

# A recursion that went too deep has a thousand frames, a group of tasks as many exceptions.
MAX_FRAMES = 8
MAX_EXCEPTIONS = 10


def places(error: BaseException) -> list[str]:
    """The exception and those that led to it, the nearest first: the type of each and where it came through, innermost
    call first. Never a message."""
    return [_where(one) for one, _ in zip(_chain(error), range(MAX_EXCEPTIONS), strict=False)]


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        earlier = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        waiting += [*(one.exceptions if isinstance(one, BaseExceptionGroup) else ()), *([earlier] if earlier else ())]


def _where(error: BaseException) -> str:
    frames = [_place(f.f_code.co_filename, n, f.f_code.co_name) for f, n in traceback.walk_tb(error.__traceback__)]
    return f"{type(error).__qualname__}: {', '.join(frames[: -MAX_FRAMES - 1 : -1]) or 'not raised in Python'}"


def _place(path: str, line: int, function: str = "") -> str:
    """Package, file, line and function: what is above them is the installation's own business."""
    return f"{'/'.join(path.split('/')[-2:])}:{line} {function}".rstrip()


# -- everything else that writes to stderr ---------------------------------------------------------------------------

Report = Callable[[str, str, Mapping[str, Any]], None]

# The beginnings of asyncio's and aiohttp's reports that are constants. Others quote calls and their arguments.
_HARMLESS = frozenset(
    {
        "Future exception was never retrieved",
        "Task exception was never retrieved",
        "Task was destroyed but it is pending!",
        "Unclosed client session",
        "Unclosed connection",
        "Unclosed connector",
        "unhandled exception during asyncio.run() shutdown",
    }
)


def printable(text: str) -> str:
    """One line of nothing but text: what steers a terminal, or turns its reading direction, is shown as a mark."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def say(*lines: str, level: str = "error") -> None:
    """Lines for a person on stderr. The exit code stands even when nobody can read them.

    A line feed in one is shown as a mark: whoever named a file, or an account, would else speak for us in the next.
    """
    level_mark = journald.prefix(level) if journald.stderr_leads_there() else ""
    with contextlib.suppress(OSError, ValueError):
        for line in lines:
            print(f"{level_mark}caspen-sync: {printable(redacted(line))}", file=sys.stderr)


def say_crashed(error: BaseException) -> None:
    """What a person should know of an exception that nobody thought of."""
    say(
        "a fault of caspen-sync itself; please report these lines, they hold no data:",
        *(f"  {place}" for place in places(error)),
    )


def report_by(report: Report) -> None:
    """From now on, what libraries and threads say goes out by `report`, which is given level, event and fields."""
    global _report  # noqa: PLW0603  a process has one log
    _report = report


def install() -> None:
    """Takes over every way in which this process could say something by itself."""
    sys.excepthook = lambda _kind, error, _trace: say_crashed(error)
    sys.unraisablehook = lambda what: _report_error("unraisable", what.exc_value)
    threading.excepthook = lambda what: _report_error("thread_died", what.exc_value)
    warnings.showwarning = _show_warning
    logging.raiseExceptions = False  # or a record that cannot be written would be shown with its arguments
    root = logging.getLogger()
    root.handlers = [_Records()]
    root.setLevel(logging.WARNING)  # whatever level we log at: a library's details are about reprs
    _write_no_core()


class _Records(logging.Handler):
    """What libraries log: who, where and what was raised."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        words = str(record.msg).split("\n", 1)[0]
        _report(
            record.levelname.lower(),
            "library",
            {
                "logger": record.name,
                "reason": words if words in _HARMLESS else None,
                "at": [_place(record.pathname, record.lineno, record.funcName), *(places(error) if error else ())],
            },
        )


def _say_plainly(level: str, event: str, fields: Mapping[str, Any]) -> None:
    """Until the log is set up, and in commands that have none."""
    event_as_said = screened(None, level, {"level": level, "event": event, **fields})
    say(" ".join(f"{name}={value}" for name, value in event_as_said.items() if value is not None), level=level)


_report: Report = _say_plainly


def _report_error(event: str, error: BaseException | None) -> None:
    if not isinstance(error, SystemExit):  # which is how a thread ends itself
        _report("error", event, {"at": places(error) if error else []})


def _show_warning(
    message: Warning | str,  # noqa: ARG001  not said
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    _report("warning", "python_warning", {"error": category.__name__, "at": [_place(filename, lineno)]})


def _write_no_core() -> None:
    """No core dump: it would hold every body and token that is in memory.

    One byte instead of none: Linux heeds no other limit where core_pattern is a pipe (systemd-coredump, apport), and
    begins no file that may not hold a page.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (min(1, hard) if hard >= 0 else 1, hard))
