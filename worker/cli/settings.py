"""Settings out of the flags of a command."""

from __future__ import annotations

import argparse
from typing import Any

from worker.config import Settings, load


def settings_from(args: argparse.Namespace) -> Settings:
    """Raises ConfigError."""
    flags: dict[str, dict[str, Any]] = {}
    if args.dsn is not None:
        flags["database"] = {"dsn": args.dsn}
    if args.log_level is not None:
        flags.setdefault("log", {})["level"] = args.log_level
    if args.log_format is not None:
        flags.setdefault("log", {})["format"] = args.log_format
    if getattr(args, "listen", None) is not None:
        flags["http"] = {"listen": args.listen}
    return load(args.config, flags)


def quieter(settings: Settings, args: argparse.Namespace) -> Settings:
    """The same, with a log that says nothing while all goes well, unless it was asked for."""
    if args.log_level is not None or settings.log.level != "info":
        return settings
    return settings.model_copy(update={"log": settings.log.model_copy(update={"level": "warning"})})
