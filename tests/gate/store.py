"""The store's statements alone, beside a backlog: what they write, and what their plans read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.gate.baseline import Costs
from tests.gate.plans import Plans, explaining_pool, plans
from tests.gate.written import Ground, Written, ground
from tests.support.claims import accepted, claim, claim_arrival, limits, registered, settle
from tests.support.database import Database
from worker.sandbox.resource import fresh_resource
from worker.store import Store

BATCH = 256
ARRIVALS = 1000
BACKLOG = 20_000
HOT = 2000
ACCOUNT = "default"
IDLE_ACCOUNTS = [f"a{number:02}" for number in range(2, 51)]
_NOON = 1_704_110_400.0

_WRITE = """
    INSERT INTO caspen_sync.outbox (appointment_id, changes)
    SELECT CASE WHEN $1 = 'hot' THEN $1 ELSE $1 || '_' || lpad(i::text, 5, '0') END, '{"note": "as long as any"}'
    FROM generate_series(1, $2::int) AS i
"""
_BECOME_BACKLOG = (
    "UPDATE caspen_sync.outbox SET state = 'synced', finished_at = now() WHERE appointment_id LIKE 'finished%'",
    """
    UPDATE caspen_sync.queue SET due_at = CASE WHEN appointment_id LIKE 'finished%' THEN 'infinity'::timestamptz
                                               WHEN appointment_id LIKE 'waiting%' THEN now() + interval '1 hour'
                                               ELSE due_at END
    """,
    # All rows are looked at, so that no chance has a part in what the planner knows.
    "SET default_statistics_target = 300",
    "VACUUM ANALYZE",
)


async def store_alone(cluster: Path) -> dict[str, Costs]:
    async with ground(cluster) as there, explaining_pool(there.database.dsn) as pool:
        database = Database(dsn=there.database.dsn, pool=there.database.pool, as_worker=pool)
        store = await registered(database, limits(1000))
        for kind in ("finished", "waiting", "due", "hot"):
            await _arrive(database, kind, HOT if kind == "hot" else BACKLOG)
            while await store.take_in([ACCOUNT]):
                pass
        async with database.pool.acquire() as conn:
            for statement in _BECOME_BACKLOG:
                await conn.execute(statement)
        written = await _once(there, database, store, "more")
        with plans() as read:
            await _once(there, database, store, "still_more")
        await database.pool.execute("UPDATE caspen_sync.queue SET due_at = '2000-01-01' WHERE appointment_id = 'hot'")
        with plans() as read_hot:
            await claim(store)
        await _arrive(database, "lone", 1)
        with plans() as read_lone:
            assert await claim_arrival(store)
        for account in IDLE_ACCOUNTS:
            await registered(database, limits(60), account=account)
        with plans() as read_idle:
            await store.take_in(IDLE_ACCOUNTS)
            await store.claim(dict.fromkeys(IDLE_ACCOUNTS, 8), timeout_s=30, lease_s=75, max_changes=1000)
            await store.outlook(IDLE_ACCOUNTS)
        return {
            "enqueue": {"per_change": _totals(written["enqueue"], ARRIVALS)},
            "take_in": _costs(written["take_in"], read, "take_in", ARRIVALS),
            "claim": _costs(written["claim"], read, "claim", BATCH),
            "settle": _costs(written["settle"], read, "settle", BATCH),
            "claim_hot": {"rows_read": read_hot["claim"]},
            "claim_arrival": {"rows_read": read_lone["claim_arrival"]},
            "idle_plans": {name: read_idle[name] for name in ("take_in", "claim", "outlook")},
        }


async def _once(there: Ground, database: Database, store: Store, kind: str) -> Mapping[str, Written]:
    """New changes arrive and are taken in; appointments are claimed and written back. What each step wrote."""
    written: dict[str, Written] = {}
    moment = await there.log.now()

    async def step(name: str) -> None:
        nonlocal moment
        written[name] = await there.log.since(moment)
        moment = await there.log.now()

    await _arrive(database, kind, ARRIVALS)
    await step("enqueue")
    assert await store.take_in([ACCOUNT])
    await step("take_in")
    claims = await claim(store, BATCH)
    await step("claim")
    assert len(claims) == BATCH
    assert not await settle(store, *(accepted(one, fresh_resource(one.appointment_id, _NOON)) for one in claims))
    await step("settle")
    return written


async def _arrive(database: Database, kind: str, count: int) -> None:
    await database.pool.execute(_WRITE, kind, count)


def _costs(written: Written, read: Plans, name: str, per: int) -> Costs:
    kind = "per_change" if name == "take_in" else "per_request"
    return {kind: _totals(written, per), "rows_read": read[name]}


def _totals(written: Written, per: int) -> Mapping[str, float]:
    return {kind: getattr(written, kind).total() / per for kind in Written.__slots__}
