"""A thousand accounts in one process: `python -m tests.bench.accounts [ACCOUNTS [SECONDS]]`.

First all of them with more to send than their budget lets through, 60 requests in 60 s each: how much of the sum of all
budgets is used, and what that takes, over two whole windows, once every slot has been used once. Then the same accounts
with nothing to do, beside a process with a single one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg

from tests.bench import databases
from tests.bench.processes import ended, start
from tests.bench.serverprocess import ServerProcess, server
from tests.bench.usage import Usage, peak_mb
from tests.bench.work import BODY, ID_DIGITS
from worker.embedded import embedded_postgres
from worker.migrate import migrate

LIMIT, WINDOW_S, GUARD_S = 60, 60.0, 0.5
WARM_S = 75.0
"""Registering the accounts, and every slot once: from then on the budget alone decides."""
IDLE_S = 30.0

# Slots are used in bursts, a window apart, so that requests in any span say little. How long it takes from one use of a
# slot to the next says all.
CYCLES = f"""
    SELECT avg(answer_s)::float8 AS answer_s,
           avg(extract(epoch FROM started_at - before))::float8 AS mean_s,
           min(extract(epoch FROM started_at - before))::float8 AS least_s
    FROM (SELECT started_at, duration_ms / 1000 AS answer_s,
                 lag(started_at, {LIMIT}) OVER (PARTITION BY account ORDER BY started_at) AS before
          FROM caspen_sync.attempt) AS cycles
    WHERE before IS NOT NULL
"""


async def main(accounts: int, seconds: float) -> None:
    with embedded_postgres() as dsn:
        async with databases.connected(dsn) as conn, server() as api:
            await migrate(conn)
            await _fill(conn, accounts, math.ceil((seconds + 2 * WINDOW_S) / WINDOW_S * LIMIT))
            postmaster = await databases.postmaster(dsn)
            api.expect(range(0))
            async with _service(dsn, api, accounts) as worker:
                await asyncio.sleep(WARM_S)
                used, took_s = await _measured(worker, postmaster, api, seconds)
                peak = peak_mb(worker)
            row = await conn.fetchrow(CYCLES)
            used_share = (WINDOW_S + GUARD_S + row["answer_s"]) / row["mean_s"]
            print(f"{accounts:,} accounts, {seconds:.0f} s after {WARM_S:.0f} s")
            print(f"  a slot is used again after {row['mean_s']:.2f} s: {used_share:.2%} of all budgets are used")
            print(f"  {LIMIT + 1} requests of one account were at least {row['least_s']:.2f} s apart, first to last")
            worker_cores, postgres_cores = _cores(used.worker_s, took_s), _cores(used.postgres_s, took_s)
            print(f"  worker {worker_cores}, Postgres {postgres_cores}, peak {peak:.0f} MB", flush=True)
            await conn.execute(
                "TRUNCATE caspen_sync.outbox, caspen_sync.queue, caspen_sync.arrival, caspen_sync.attempt"
            )
            for some in (1, accounts):
                async with _service(dsn, api, some) as worker:
                    await asyncio.sleep(IDLE_S)
                    used, took_s = await _measured(worker, postmaster, api, IDLE_S)
                    peak = peak_mb(worker)
                print(
                    f"{some:,} with nothing to do: worker {_cores(used.worker_s, took_s)}, "
                    f"Postgres {_cores(used.postgres_s, took_s)}, peak {peak:.0f} MB"
                )


async def _fill(conn: asyncpg.Connection, accounts: int, changes: int) -> None:
    await conn.execute(
        f"""
        INSERT INTO caspen_sync.outbox (account, appointment_id, changes)
        SELECT 'a' || a, 'app_' || lpad((a * $2::int + n)::text, {ID_DIGITS}, '0'), $3::text::jsonb
        FROM generate_series(1, $1::int) AS a, generate_series(1, $2::int) AS n
        """,
        accounts,
        changes,
        BODY,
        timeout=900,
    )
    await conn.execute("VACUUM (ANALYZE)", timeout=300)
    await conn.execute("CHECKPOINT", timeout=300)


@contextlib.asynccontextmanager
async def _service(dsn: str, api: ServerProcess, accounts: int) -> AsyncIterator[int]:
    """A service for that many accounts; its process id."""
    with tempfile.TemporaryDirectory() as folder:
        config = _config(Path(folder), dsn, api.base_url, accounts)
        process = await start("worker", "run", variables={"CASPEN_SYNC_CONFIG": str(config)})
        async with ended(process):
            yield process.pid


def _config(folder: Path, dsn: str, base_url: str, accounts: int) -> Path:
    token, config = folder / "token", folder / "config.toml"
    token.write_text("unused", encoding="utf-8")
    parts = [f'[database]\ndsn = "{dsn}"', f'[api]\nbase_url = "{base_url}"', '[http]\nlisten = ""']
    parts += [
        f'[accounts.a{n}]\ntoken_file = "{token}"\nrate_limit = {LIMIT}\nrate_window_s = {WINDOW_S}\n'
        f"rate_guard_s = {GUARD_S}"
        for n in range(1, accounts + 1)
    ]
    config.write_text("\n".join([*parts, '[log]\nlevel = "error"\n']), encoding="utf-8")
    return config


async def _measured(worker: int, postmaster: int, api: ServerProcess, seconds: float) -> tuple[Usage, float]:
    before, began_at = Usage.now(worker, postmaster, api.pid), time.monotonic()
    await asyncio.sleep(seconds)
    return Usage.now(worker, postmaster, api.pid).since(before), time.monotonic() - began_at


def _cores(cpu_s: float, took_s: float) -> str:
    return f"{cpu_s / took_s:.1%} of a core"


if __name__ == "__main__":
    arguments = sys.argv[1:]
    asyncio.run(
        main(
            int(arguments[0]) if arguments else 1000,
            float(arguments[1]) if len(arguments) > 1 else 2 * (WINDOW_S + GUARD_S),
        )
    )
