"""Logs: structured events on stderr, as JSON for machines and coloured lines for a terminal; journald learns the level.

An event has a stable name; what it is about stands in fields. Which fields there are, and what they may hold, stands in
`worker.privacy`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO, cast

import structlog

from worker import journald, privacy
from worker.config import LogSettings

Log = Any  # structlog's loggers are typed by what they wrap, which is nobody's business here


def configure(settings: LogSettings) -> None:
    """Sets up structlog for this process. What libraries and threads have to say then goes the same way."""
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    renderer: Any
    if as_json:
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    renderers = [renderer] if as_json else [_as_text, renderer]
    if journald.stderr_leads_there():
        renderers.append(_with_level)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            privacy.screened,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=False,
    )
    privacy.report_by(_report)


class _Stderr:
    """stderr, for as long as somebody reads it: a log that cannot be written must not stop the work."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def _as_text(_logger: Any, _method: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """Before the one that writes for people: what is shown in a terminal steers none, whatever structlog
    makes of it. Lists and mappings are shown by their repr, which has escapes for all that would."""
    return {name: privacy.printable(value) if isinstance(value, str) else value for name, value in event.items()}


def _with_level(_logger: Any, level: str, line: str) -> str:
    """The last of structlog's processors under systemd."""
    return journald.prefix(level) + line


def _report(level: str, event: str, fields: Mapping[str, Any]) -> None:
    log().log(getattr(logging, level.upper(), logging.ERROR), event, **fields)


def log() -> Log:
    """The logger. Bind what the events that follow have in common."""
    return structlog.get_logger()
