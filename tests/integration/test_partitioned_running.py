"""The product on a partitioned schema, as its users meet it, with several accounts; and what its statements read."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import asyncpg
import pytest

from tests.integration.test_plans import STATEMENTS
from tests.support.audit import (
    assert_accounted_for,
    assert_final_state,
    assert_id_order,
    assert_no_overlap,
    assert_settled,
)
from tests.support.checking import holds, looked
from tests.support.claims import limits
from tests.support.database import Database
from tests.support.plans import nodes
from tests.support.processes import FAST, TOKEN, command, environment
from worker.check import Verdict
from worker.config import DatabaseSettings
from worker.database import connect_options
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings
from worker.sqlfiles import query
from worker.store import Store

# In four partitions, so that some share one.
ACCOUNTS = ["default", *(f"clinic{number}" for number in range(5))]
SETTINGS = {
    name.replace("__DEFAULT__", f"__{account.upper()}__"): value
    for account in ACCOUNTS
    for name, value in FAST.items()
    if "__DEFAULT__" in name
}


@pytest.mark.long
async def test_several_accounts_from_the_outbox_to_the_synced_state(partitioned: Database, tmp_path: Path) -> None:
    """Two workers at once, then a backfill, what a person does with parked changes, and the retention: each account's
    changes arrive in order, none is lost, and only the bad ones park."""
    for number in range(1001, 1007):
        for account in ACCOUNTS:
            for appointment in range(4):
                await partitioned.write(f"app_{account}_{appointment}", {"note": f"change {number}"}, account=account)
    for account in ACCOUNTS:
        await partitioned.write(f"app_{account}_9", {"room_id": NO_SUCH_ROOM}, account=account)
    lines = [
        json.dumps({"account": account, "appointment_id": f"app_{account}_{appointment}", "changes": {"room_id": 7}})
        for account in ACCOUNTS
        for appointment in range(2, 6)
    ]
    file = tmp_path / "may.jsonl"
    file.write_text("\n".join(lines), "utf-8")
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=10_000)) as sandbox:
        env = environment(partitioned.dsn, sandbox.base_url, SETTINGS)
        ended = await asyncio.gather(*(command("run", "--once", env=env) for _ in range(2)))
        assert {one.exit_code for one in ended} <= {0, 65}, ended
        await assert_settled(partitioned)
        assert await partitioned.states() == {"synced": 144, "parked": 6}

        loaded = await command("backfill", str(file), env=env)
        assert loaded.exit_code == 0, loaded
        assert "24 of 24 changes of may.jsonl are synced" in loaded.stdout
        parked = json.loads((await command("parked", "list", "--json", env=env)).stdout)
        assert {one["account"] for one in parked} == set(ACCOUNTS)
        assert (await command("parked", "retry", "--account", "clinic1", env=env)).exit_code == 0
        assert (await command("parked", "discard", "--account", "clinic2", "--yes", env=env)).exit_code == 0
        assert (await command("run", "--once", env=env)).exit_code == 65

        await assert_settled(partitioned)
        await assert_final_state(partitioned, sandbox.appointments)
        await assert_accounted_for(partitioned, sandbox.log)
        assert_no_overlap(sandbox.log)
        assert_id_order(sandbox.log)
        assert await partitioned.states() == {"synced": 168, "parked": 5, "discarded": 1}

        status = json.loads((await command("status", "--json", env=env)).stdout)
        assert {one["account"]: one["parked"] for one in status["accounts"]} == {
            account: 0 if account == "clinic2" else 1 for account in ACCOUNTS
        }
        await partitioned.pool.execute(
            "UPDATE caspen_sync.outbox SET created_at = created_at - interval '60 days', "
            "finished_at = finished_at - interval '60 days'"
        )
        assert (await command("prune", env=env)).exit_code == 0
        assert await partitioned.states() == {"parked": 5}


async def test_dead_rows_are_counted_over_the_partitions(
    partitioned: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` names the table, which is what a person would clean."""
    async with partitioned.pool.acquire() as conn:
        for account in ACCOUNTS:
            await conn.execute("INSERT INTO caspen_sync.rate_slot VALUES ($1, 1, now())", account)
        await conn.execute("DELETE FROM caspen_sync.rate_slot")
        await conn.execute("SELECT pg_stat_force_next_flush()")
        await conn.execute("SELECT 1")
    assert "rate_slot 6 of 6" in (await looked(partitioned.dsn))["dead_rows"].said
    monkeypatch.setattr("worker.check.upkeep.FEW_DEAD", 5)
    found = (await looked(partitioned.dsn))["dead_rows"]
    assert "rate_slot was cleaned never" in found.said
    assert "VACUUM caspen_sync.rate_slot" in (found.mend or "")


async def test_check_tells_of_a_server_that_would_crash(partitioned: Database) -> None:
    """A database that was partitioned on an earlier one; with what `check` says to do, it is well. Others are."""
    version = int(await partitioned.value("SELECT current_setting('server_version_num')"))
    name = await partitioned.value("SELECT quote_ident(current_database())")
    await partitioned.pool.execute(f"ALTER DATABASE {name} SET enable_partition_pruning = on")
    found = (await looked(partitioned.dsn))["database"]
    if 180_000 <= version <= 180_006:
        holds(found, Verdict.FAILED, "can crash", "SET enable_partition_pruning = off")
    else:
        holds(found, Verdict.OK, "PostgreSQL")
    await partitioned.pool.execute(f"ALTER DATABASE {name} SET enable_partition_pruning = off")
    assert (await looked(partitioned.dsn))["database"].verdict is Verdict.OK


async def test_a_statement_reads_its_accounts_partition_only(partitioned: Database) -> None:
    """With changes of many accounts waiting, what runs for one of them does not look into the others' partitions."""
    store = Store(partitioned.pool, worker="w")
    await store.register(dict.fromkeys(ACCOUNTS, limits()))
    for account in ACCOUNTS:
        for number in range(5):
            await partitioned.write(f"app_{number}", {"note": "n"}, account=account)
    await store.take_in(ACCOUNTS)
    for account in ACCOUNTS:
        await partitioned.write("app_1", {"note": "n"}, account=account)
    place = "SELECT tableoid::regclass::text FROM caspen_sync.account WHERE account = 'default'"
    own = number_of(await partitioned.value(place))

    conn = await asyncpg.connect(**(connect_options(DatabaseSettings()) | {"dsn": partitioned.dsn}))
    # Where the server would crash by it (see partitioned.sql), it does so only if somebody holds the rows.
    await conn.execute("SET enable_partition_pruning = on")
    try:
        for name, arguments in STATEMENTS.items():
            step = conn.transaction()
            await step.start()
            plan = (await (await conn.prepare(query(name))).explain(*arguments, analyze=True))[0]["Plan"]
            await step.rollback()
            read = {
                node["Relation Name"]
                for node in nodes(plan)
                if "Scan" in node["Node Type"] and node.get("Relation Name") and node["Actual Loops"]
            }
            assert {number_of(partition) for partition in read} <= {own}, name
            assert read or name not in ("claim", "take_in", "take_slot", "outlook"), name
    finally:
        await conn.close()


def number_of(partition: str) -> int:
    """Which one of its table it is: an account has the same number in each."""
    return int(re.findall(r"_(\d+)$", partition)[0])
