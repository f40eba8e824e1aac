"""How much memory a backlog takes: `python -m tests.bench.pending [CHANGES]`.

One process works for a while on a thousand pending changes, and then on a million: with 8 requests at once, which is
the default, and with 256. The server answers at once, so many batches go by.
"""

from __future__ import annotations

import asyncio
import sys

from tests.bench import databases
from tests.bench.processes import ended, start
from tests.bench.roster import CASPEN_SYNC
from tests.bench.serverprocess import server
from tests.bench.usage import peak_mb
from tests.bench.work import BODY, ID_DIGITS
from worker.config import AccountSettings
from worker.embedded import embedded_postgres
from worker.migrate import migrate

FEW = 1000
WORKS_S = 20
LOOK_S = 0.1
WRITE = f"""
    INSERT INTO caspen_sync.outbox (appointment_id, changes)
    SELECT 'app_' || lpad(n::text, {ID_DIGITS}, '0'), $2::text::jsonb FROM generate_series(1, $1::int) AS n
"""


async def main(many: int) -> None:
    with embedded_postgres() as dsn:
        async with server() as api:
            for concurrency in (AccountSettings().concurrency, CASPEN_SYNC.concurrency):
                for changes in (FEW, many):
                    copy = await _database(dsn, f"pending_{concurrency}_{changes}", changes)
                    api.expect(range(0))
                    peak = await _peak_mb(copy, api.base_url, concurrency)
                    async with databases.connected(copy) as conn:
                        done = await conn.fetchval("SELECT count(*) FROM caspen_sync.outbox WHERE state = 'synced'")
                    print(
                        f"{changes:>9,} pending, {concurrency:>3} at once: {peak:5.1f} MB, {done:,} synced", flush=True
                    )


async def _database(dsn: str, name: str, changes: int) -> str:
    """The DSN of a database with so many pending changes."""
    async with databases.connected(dsn) as conn:
        await conn.execute(f"CREATE DATABASE {name}")
    copy = databases.with_database(dsn, name)
    async with databases.connected(copy) as conn:
        await migrate(conn)
        await conn.execute(WRITE, changes, BODY, timeout=600)
        await conn.execute("VACUUM (ANALYZE)", timeout=600)
    return copy


async def _peak_mb(dsn: str, base_url: str, concurrency: int) -> float:
    """The most memory that one run had resident, as far as it was looked at."""
    variables = CASPEN_SYNC.variables(CASPEN_SYNC.given(dsn, base_url))
    variables |= {"CASPEN_SYNC_ACCOUNTS__DEFAULT__CONCURRENCY": str(concurrency)}
    process = await start("worker", "run", "--once", "--max-runtime", str(WORKS_S), variables=variables)
    peak = 0.0
    async with ended(process):
        while process.returncode is None:
            peak = max(peak, peak_mb(process.pid))
            await asyncio.sleep(LOOK_S)
    return peak


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
