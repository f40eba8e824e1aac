"""`caspen-sync sandbox`."""

from __future__ import annotations

import argparse
import asyncio
import signal

from worker.errors import ExitCode, UsageError
from worker.sandbox import SandboxSettings, serve, settings_from


def run(args: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM."""
    try:
        settings = settings_from(args)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"sandbox: {error}") from None
    try:
        asyncio.run(_serve(settings))
    except OSError as error:
        what = f"write {error.filename}" if error.filename else f"listen on {args.host}:{args.port}"
        raise UsageError(f"sandbox: cannot {what}: {error.strerror}") from None
    return ExitCode.OK


async def _serve(settings: SandboxSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, stop, lambda base_url: print(f"sandbox at {base_url}", flush=True))
