"""Real worker processes, started as an operator starts them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.support import canary
from tests.support.pgbouncer import way_through
from tests.support.waiting import eventually

TOKEN = "test-token-2f9c"

# Short times, so that a window and a lease fit into a test.
FAST = {
    "API__TIMEOUT_S": "2",
    "ACCOUNTS__DEFAULT__TOKEN": TOKEN,
    "ACCOUNTS__DEFAULT__RATE_LIMIT": "1000",
    "ACCOUNTS__DEFAULT__RATE_WINDOW_S": "1",
    "ACCOUNTS__DEFAULT__RATE_GUARD_S": "0.05",
    "ACCOUNTS__DEFAULT__CONCURRENCY": "8",
    "RETRY__BACKOFF_BASE_S": "0.2",
    "RETRY__BACKOFF_MAX_S": "1",
    "RETRY__PROBE_BASE_S": "0.2",
    "RETRY__PROBE_MAX_S": "1",
    "WORKER__POLL_S": "0.5",
    # Tests that need it say where; workers beside each other would want the same port.
    "HTTP__LISTEN": "",
}

# For tests of LISTEN, of migrate, and of Postgres's own words to who wants to connect: past a PgBouncer.
DIRECT = {"DATABASE__PGBOUNCER": "false"}


def environment(dsn: str, base_url: str, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a worker: this process's, without its settings, and FAST with `settings` on top.

    Where the suite runs through a PgBouncer, so does the worker, unless `settings` say that it does or does not.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CASPEN_SYNC_", "OTEL_"))}
    inherited.pop("PYTHONUNBUFFERED", None)  # nor does cron set it: what cannot be written is left in a buffer then
    ours = {"DATABASE__DSN": dsn, "API__BASE_URL": base_url} | FAST | dict(settings or {})
    through = way_through(ours["DATABASE__DSN"])
    if through and "DATABASE__PGBOUNCER" not in ours:
        ours |= {"DATABASE__DSN": through, "DATABASE__PGBOUNCER": "true"}
    canary.sing_password(ours["DATABASE__DSN"])
    canary.sing(*(value for name, value in ours.items() if name.endswith("__TOKEN")))
    return inherited | {f"CASPEN_SYNC_{name}": value for name, value in ours.items()}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it said."""

    exit_code: int
    stdout: str
    stderr: str


async def command(
    *args: str,
    env: Mapping[str, str] | None = None,
    limit_s: float = 60,
    cwd: str | None = None,
    given: bytes | None = None,
    module: str = "worker",
) -> Ended:
    """Runs `caspen-sync ARGS` to its end. `given`: what it may read from standard input. `module`: another program."""
    process = await start(*args, env=env, cwd=cwd, piped=given is not None, module=module)
    async with asyncio.timeout(limit_s):
        out, err = await process.communicate(given)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


class Watched(asyncio.subprocess.Process):
    """A process whose output is searched for what it must not say."""

    async def communicate(self, input: bytes | bytearray | memoryview | None = None) -> tuple[bytes, bytes]:  # noqa: A002
        """Its whole output, once it has ended. Raises canary.Leaked."""
        out, err = await super().communicate(input)
        self.watch_stdout(out.decode(errors="replace"))
        canary.watch(err.decode(errors="replace"), where=f"stderr of process {self.pid}")
        return out, err

    def watch_stdout(self, said: str) -> None:
        canary.watch(said, where=f"stdout of process {self.pid}")


class Showing(Watched):
    """`parked show`, whose purpose it is to print a body on stdout. What it says on stderr is searched all the same."""

    def watch_stdout(self, said: str) -> None:
        """Nothing to search for."""


async def start(
    *args: str,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    piped: bool = False,
    module: str = "worker",
    prefix: Sequence[str] = (),
) -> Watched:
    """Starts `caspen-sync ARGS`; its output is read by `communicate`. `piped`: it has a standard input. `module`:
    another program. `prefix`: a command that becomes it."""
    process = await asyncio.create_subprocess_exec(
        *prefix,
        sys.executable,
        "-m",
        module,
        *args,
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE if piped else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    # asyncio has no way to ask for another class
    process.__class__ = Showing if args[:2] == ("parked", "show") else Watched
    return cast(Watched, process)


@contextlib.asynccontextmanager
async def services(
    count: int, env: Mapping[str, str], *args: str
) -> AsyncIterator[Sequence[asyncio.subprocess.Process]]:
    """`count` services, killed at the end unless they have ended by themselves."""
    processes = [await start("run", *args, env=env) for _ in range(count)]
    drains = [asyncio.create_task(process.communicate()) for process in processes]
    try:
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for out, err in await asyncio.gather(*drains):
            # Shown by pytest when the test fails: how a service ended is in its own words.
            print(out.decode(), err.decode()[-5000:])


async def stop(process: asyncio.subprocess.Process, limit_s: float = 30) -> int:
    """SIGTERM, once it is heeded, and the exit code: a process that others have left nothing to do may still be
    starting, and Python ends at once then."""
    await eventually(lambda: process.returncode is not None or _heeds(process.pid, signal.SIGTERM), what="it listens")
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(limit_s):
        return await process.wait()


def _heeds(pid: int, number: signal.Signals) -> bool:
    """Whether the process handles the signal itself (SigCgt in proc(5): a bit for each, the lowest for number 1)."""
    with contextlib.suppress(FileNotFoundError):
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), 16)
        return bool(caught >> (number - 1) & 1)
    return False
