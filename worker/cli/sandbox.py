"""`caspen-sync sandbox`."""

from __future__ import annotations

import argparse
import asyncio
import signal

from worker.errors import ExitCode, UsageError
from worker.sandbox import SandboxSettings, serve, settings_from


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    try:
        asyncio.run(_serve(settings))
    except OSError as error:
        raise UsageError(f"sandbox: cannot listen on {args.host}:{args.port}: {error.strerror}") from None
    return ExitCode.OK


async def _serve(settings: SandboxSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, stop, lambda base_url: print(f"sandbox at {base_url}", flush=True))
