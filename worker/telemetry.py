"""Logs: structured events on stderr, as JSON for machines and coloured lines for a terminal.

An event has a stable name; what it is about stands in fields. No field ever holds a token or a value from a body.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, TextIO, cast

import structlog

from worker.config import LogSettings

Log = Any  # structlog's loggers are typed by what they wrap, which is nobody's business here


def configure(settings: LogSettings) -> None:
    """Sets up structlog for this process."""
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    renderer: Any
    if as_json:
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=False,
    )


class _Stderr:
    """stderr, for as long as somebody reads it: a log that cannot be written must not stop the work."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def log() -> Log:
    """The logger. Bind what the events that follow have in common."""
    return structlog.get_logger()
