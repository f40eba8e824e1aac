"""What an idle `run --once` costs, beside the imports of its libraries alone: `python -m tests.bench.idle`."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import asyncpg

from worker.embedded import embedded_postgres
from worker.migrate import migrate

RUNS = 15
IMPORTS = "import aiohttp, asyncpg, pydantic, structlog"


def main() -> None:
    with embedded_postgres() as dsn:
        asyncio.run(_migrate(dsn))
        env = os.environ | {"CASPEN_SYNC_DATABASE__DSN": dsn, "CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN": "unused"}
        idle, imports = [], []
        for _ in range(RUNS):
            idle.append(_seconds([sys.executable, "-m", "worker", "run", "--once"], env))
            imports.append(_seconds([sys.executable, "-c", IMPORTS], env))
    print(f"idle run --once        {_spread(idle)}")
    print(f"{IMPORTS:<22} {_spread(imports)}")
    print(f"ratio                  {statistics.median(idle) / statistics.median(imports):.2f}")


async def _migrate(dsn: str) -> None:
    conn = await asyncpg.connect(dsn)
    await migrate(conn)
    await conn.close()


def _seconds(command: Sequence[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=env, check=True)
    return time.perf_counter() - began


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    median_s = statistics.median(ordered)
    return f"median {median_s:.3f} s, from {ordered[0]:.3f} to {ordered[-1]:.3f} s, {len(ordered)} runs"


if __name__ == "__main__":
    main()
