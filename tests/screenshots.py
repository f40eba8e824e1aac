"""The README's pictures of the status page: `python -m tests.screenshots`.

A clinic in the middle of a morning, made of the demo's parts: two accounts, one of which the API refuses, changes that
are parked, and an hour of requests.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import asyncpg

from tests.support.browser import DESKTOP, PHONE, browser, goes_on, looking
from tests.support.database import Database
from tests.support.statuspage import WITH_TOKEN, Visitor, surgery
from tests.support.waiting import eventually
from worker.embedded import embedded_postgres
from worker.migrate import migrate
from worker.sandbox import NO_SUCH_ROOM

FOLDER = Path(__file__).parents[1] / ".screenshots"
SETTINGS = {
    "ACCOUNTS__DEFAULT__RATE_LIMIT": "60",
    "ACCOUNTS__DEFAULT__RATE_WINDOW_S": "10",
    "ACCOUNTS__NORTH__TOKEN": "withdrawn",
    "RETRY__PROBE_BASE_S": "40",
    "RETRY__PROBE_MAX_S": "40",
}
# What was sent in the last hour, before anybody looked.
HISTORY = """
    INSERT INTO caspen_sync.attempt (account, appointment_id, change_ids, started_at, duration_ms, http_status, outcome,
        worker)
    SELECT 'default', 'app_' || i, ARRAY[i], now() - $1 * i / 900.0 * interval '1 second', 120, $3, $2, 'clinic-1'
    FROM generate_series(1, $4::int) AS i
"""


async def main() -> None:
    """Takes them, into `.screenshots/`."""
    FOLDER.mkdir(exist_ok=True)
    with embedded_postgres() as dsn:
        pool = await asyncpg.create_pool(dsn, min_size=0)
        async with pool.acquire() as conn:
            await migrate(conn)
        database = Database(dsn=dsn, pool=pool, as_worker=pool)
        async with surgery(database, latency_s=0.3, **WITH_TOKEN, **SETTINGS) as one:
            await _a_morning(database)
            visitor = Visitor(one.address)
            await eventually(lambda: _goes_on(visitor, database), limit_s=60, every_s=1, what="half of it is sent")
            async with browser() as running:
                for name, size, scheme in (
                    ("light", DESKTOP, "light"),
                    ("dark", DESKTOP, "dark"),
                    ("phone", PHONE, "light"),
                ):
                    async with looking(one.address, size=size, running=running, color_scheme=scheme) as page:
                        await page.goto("/")
                        await goes_on(page)
                        await page.screenshot(path=FOLDER / f"{name}.png", full_page=name != "phone")


async def _a_morning(database: Database) -> None:
    chance = random.Random(1)
    for number in range(3):
        await database.write(f"app_9{number:03}", {"room_id": NO_SUCH_ROOM})
    for number in range(220):
        await database.write(f"app_{number:04}", {"note": f"asked to be called back ({number})"})
    for number in range(12):
        await database.write(f"app_n{number:03}", {"confirmed": chance.random() < 0.5}, account="north")
    for outcome, status, count in (("synced", 200, 850), ("retry", 503, 40), ("rejected", 422, 6)):
        await database.pool.execute(HISTORY, 3400.0 * 900 / count, outcome, status, count)


async def _goes_on(visitor: Visitor, database: Database) -> bool:
    """Whether there is something to see; that somebody looks meanwhile makes the graphs."""
    await visitor.get("/api/status")
    return (await database.states())["pending"] < 90


if __name__ == "__main__":
    asyncio.run(main())
