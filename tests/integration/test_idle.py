"""The cron run that finds nothing to do."""

from __future__ import annotations

import asyncio
import sys

from tests.support.database import Database
from tests.support.processes import environment

NOT_NEEDED = {
    "aiohttp",
    "prometheus_client",
    "structlog",
    "tenacity",
    "rich",
    "uvloop",
    "worker.engine",
    "worker.caspen",
    "worker.sandbox",
}


async def test_an_idle_run_imports_what_it_needs(database: Database) -> None:
    """With nothing due, neither the HTTP client nor the engine is even imported; exit 0, nothing said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-m", "worker", "run", "--once"),
        env=environment(database.dsn, "http://127.0.0.1:1/v1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    imported = {line.rsplit("|", 1)[-1].strip() for line in err.decode().splitlines() if line.startswith("import time")}
    assert (process.returncode, out) == (0, b"")
    assert "asyncpg" in imported
    assert not imported & NOT_NEEDED
