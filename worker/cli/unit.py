"""`caspen-sync unit`: what to install on this host, on stdout; what is to be minded, on stderr."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from worker import unit
from worker.cli.messages import complain
from worker.config import DEFAULT_FILES, AccountSettings, Settings, find_config, load_file
from worker.errors import ExitCode

DEFAULT_CONFIG = DEFAULT_FILES[-1]
DEFAULT_TOKEN = DEFAULT_CONFIG.with_name("token")


def run(args: argparse.Namespace) -> int:
    """Prints one unit, or one line for cron. Raises ConfigError."""
    if args.kind == "timer":
        return _print(unit.timer(), ())
    plan = _plan(args.config)
    if args.kind == "cron":
        return _print(unit.cron(plan), unit.on_cron(plan))
    if args.once:
        return _print(unit.once(plan), unit.on_once(plan))
    return _print(unit.service(plan), unit.on_service(plan))


def _plan(flag: Path | None) -> unit.Plan:
    found = find_config(flag)
    if found is not None:
        settings, config = load_file(found), unit.absolute(found)
    else:
        settings = Settings(accounts={"default": AccountSettings(token_file=DEFAULT_TOKEN)})
        config = DEFAULT_CONFIG
        complain(f"no configuration is found; what is printed expects {config}, and in it token_file = {DEFAULT_TOKEN}")
    return unit.Plan(installation=unit.this_one(), config=config, settings=settings)


def _print(text: str, remarks: Iterable[str]) -> int:
    print(text, end="")
    for remark in remarks:
        complain(remark)
    return ExitCode.OK
