"""Hot appointments: ten with 2,000 changes each, folded and one by one, by one process whose budget does not bind:
`python -m tests.bench.hot [APPOINTMENTS [CHANGES]]`."""

from __future__ import annotations

import asyncio
import sys
import time

from tests.bench import databases
from tests.bench.processes import finish, start
from tests.bench.roster import CASPEN_SYNC
from tests.bench.serverprocess import server
from tests.bench.work import ID_DIGITS
from worker.embedded import embedded_postgres
from worker.migrate import migrate

WRITE = f"""
    INSERT INTO caspen_sync.outbox (appointment_id, changes)
    SELECT 'app_' || lpad(a::text, {ID_DIGITS}, '0'), jsonb_build_object('note', 'edit ' || n)
    FROM generate_series(1, $2::int) AS n, generate_series(1, $1::int) AS a
"""


async def main(appointments: int, changes: int) -> None:
    with embedded_postgres() as dsn:
        async with server() as api:
            took: dict[str, float] = {}
            for coalesce in ("true", "false"):
                name = f"hot_{coalesce}"
                async with databases.connected(dsn) as admin:
                    await admin.execute(f"CREATE DATABASE {name}")
                copy = databases.with_database(dsn, name)
                async with databases.connected(copy) as conn:
                    await migrate(conn)
                    await conn.execute(WRITE, appointments, changes, timeout=300)
                    await conn.execute("VACUUM (ANALYZE)")
                    await conn.execute("CHECKPOINT")
                api.expect(range(0))
                variables = CASPEN_SYNC.variables(CASPEN_SYNC.given(copy, api.base_url))
                began_at = time.perf_counter()
                await finish(
                    await start(
                        "worker", "run", "--once", variables=variables | {"CASPEN_SYNC_WORKER__COALESCE": coalesce}
                    )
                )
                whole_s = time.perf_counter() - began_at
                async with databases.connected(copy) as conn:
                    requests, took[coalesce] = await conn.fetchrow(
                        "SELECT count(*), extract(epoch FROM max(o.finished_at) - min(started_at))::float8 "
                        "FROM caspen_sync.attempt, (SELECT max(finished_at) AS finished_at FROM caspen_sync.outbox) o"
                    )
                    left = await conn.fetchval("SELECT count(*) FROM caspen_sync.outbox WHERE state <> 'synced'")
                how = "folded" if coalesce == "true" else "one by one"
                print(
                    f"{appointments * changes:,} changes of {appointments}, {how:<10} {requests:,} requests, "
                    f"{took[coalesce]:.3f} s from the first to the last (command {whole_s:.2f} s), {left} left"
                )
            print(f"folded takes {took['true'] / took['false']:.2%} of the time")


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    asyncio.run(main(*(arguments or [10, 2_000])))
