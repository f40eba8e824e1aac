"""The sandbox's options on a command line, and running it until told to stop. The command itself is the CLI's."""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from worker.contract import IdPolicy
from worker.sandbox.faults import FAULT_NAMES, checked_probabilities
from worker.sandbox.server import Sandbox
from worker.sandbox.settings import PORT_MAX, SandboxSettings
from worker.sandbox.throttle import THROTTLE_NAMES

DEFAULT_PORT = 8460


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sandbox's options to a parser."""
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    where.add_argument("--port", type=_port, default=DEFAULT_PORT, help="0 takes any free one (default: %(default)s)")
    where.add_argument("--allow-remote", action="store_true", help="let --host be another than a loopback address")
    where.add_argument("--log-file", type=Path, metavar="FILE", help="append the request log here as JSON Lines")

    who = parser.add_argument_group("who and what")
    who.add_argument("--token", action="append", metavar="TOKEN", help='accepted; repeatable (default: "sandbox")')
    who.add_argument("--forbidden-token", action="append", metavar="TOKEN", help="answered 403; repeatable")
    who.add_argument("--appointment", action="append", metavar="ID", help="exists from the start; repeatable")
    who.add_argument(
        "--strict", action="store_true", help="only --appointment exist, not every id that starts with app_"
    )
    who.add_argument(
        "--ids", choices=get_args(IdPolicy), default="integer", help="id fields of requests (default: %(default)s)"
    )

    speed = parser.add_argument_group("throttle and speed; times in seconds")
    speed.add_argument(
        "--limit", type=_limit, default=60, metavar="N", help="requests per window (default: %(default)s)"
    )
    speed.add_argument("--window", type=_window, default=60.0, metavar="S", help="(default: %(default)s)")
    speed.add_argument("--throttle", choices=THROTTLE_NAMES, default="rolling", help="(default: %(default)s)")
    speed.add_argument("--whole-seconds", action="store_true", help="the throttle counts in whole seconds")
    speed.add_argument(
        "--latency", type=_seconds, default=0.0, metavar="S", help="time to answer (default: %(default)s)"
    )
    speed.add_argument("--latency-jitter", type=_seconds, default=0.0, metavar="S", help="more or less by this much")

    faults = parser.add_argument_group("faults")
    faults.add_argument(
        "--fault",
        type=_fault,
        action="append",
        metavar="NAME=PROBABILITY",
        help=f"repeatable, 0 to 1; NAME is one of {', '.join(FAULT_NAMES)}",
    )
    faults.add_argument(
        "--slow", type=_seconds, default=35.0, metavar="S", help="how slow `slow` is (default: %(default)s)"
    )
    faults.add_argument(
        "--late", type=_seconds, default=5.0, metavar="S", help="how late `late_apply` is (default: %(default)s)"
    )
    faults.add_argument("--seed", type=int, metavar="N", help="the same faults each time")


def settings_from(args: argparse.Namespace) -> SandboxSettings:
    """The settings that the options ask for. Raises argparse.ArgumentTypeError when they do not fit together."""
    try:
        return SandboxSettings(
            host=args.host,
            port=args.port,
            allow_remote=args.allow_remote,
            tokens=tuple(args.token or ("sandbox",)),
            forbidden=tuple(args.forbidden_token or ()),
            limit=args.limit,
            window_s=args.window,
            throttle=args.throttle,
            whole_seconds=args.whole_seconds,
            latency_s=args.latency,
            latency_jitter_s=args.latency_jitter,
            faults=dict(args.fault or ()),
            slow_s=args.slow,
            late_s=args.late,
            seed=args.seed,
            strict=args.strict,
            appointments=tuple(args.appointment or ()),
            ids=args.ids,
            log_file=args.log_file,
        )
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


async def serve(settings: SandboxSettings, stop: asyncio.Event, ready: Callable[[str], None] | None = None) -> None:
    """Runs until `stop` is set; `ready` is called with the base URL once it listens. Raises OSError if it cannot."""
    async with Sandbox(settings) as sandbox:
        if ready is not None:
            ready(sandbox.base_url)
        await stop.wait()


def _port(text: str) -> int:
    return _whole(text, 0, PORT_MAX)


def _limit(text: str) -> int:
    return _whole(text, 1, 10**9)


def _whole(text: str, lowest: int, highest: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if not lowest <= number <= highest:
        raise argparse.ArgumentTypeError(f"must be a whole number from {lowest} to {highest}")
    return number


def _seconds(text: str) -> float:
    seconds = _number(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError("must be a number of seconds, 0 or more")
    return seconds


def _window(text: str) -> float:
    seconds = _number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return seconds


def _fault(text: str) -> tuple[str, float]:
    name, _, probability = text.partition("=")
    try:
        checked_probabilities({name: _number(probability)})
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name, float(probability)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
