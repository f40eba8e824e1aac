"""What `check` sees over a connection: each thing made to fail, and its mend."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.checking import holds, looked, scanned, verdicts
from tests.support.claims import registered
from tests.support.database import Database
from tests.support.roles import user_with
from tests.support.servers import Server, looked_into
from tests.support.sharding import PARTITIONED
from worker import __version__
from worker.check import Verdict
from worker.check import database as checks
from worker.check.granted import ROLES, Right, rights_of
from worker.check.rights import GRANTS_SAY_INHERIT
from worker.check.schema import TRIGGERS
from worker.config import DatabaseSettings
from worker.database import connect_options
from worker.migrate import known_migrations
from worker.sqlfiles import query

FINE, HM, BAD, LEFT_OUT = Verdict.OK, Verdict.WARNING, Verdict.FAILED, Verdict.SKIPPED
NEWEST = known_migrations()[-1].number


@pytest.mark.usefixtures("durable")
async def test_all_is_well(database: Database) -> None:
    """A migrated database and a worker's login: every look is content, and says of what."""
    async with user_with(database, "caspen_sync_worker") as dsn:
        found = await looked(dsn)
    assert verdicts(found) == dict.fromkeys(checks.LOOKS, "ok")
    assert list(found) == list(checks.LOOKS)
    name = urlsplit(database.dsn).path.removeprefix("/")
    holds(found["database"], FINE, f"database {name}, as caspen_sync_test_")
    holds(found["schema"], FINE, f"at migration {NEWEST}")


# -- the schema ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("durable")
async def test_no_schema(empty_database: str) -> None:
    """Said once, with the command to make it; what needs it is skipped, the rest is looked at."""
    found = await looked(empty_database)
    holds(found["schema"], BAD, "there is no schema caspen_sync", "run caspen-sync migrate")
    assert found["schema"].exit_code == 78
    needing = {name for name, one in found.items() if one.verdict is LEFT_OUT}
    tables = {"version", "triggers", "rights", "roles", "connections", "dead_rows", "accounts", "paused", "woken"}
    assert needing == tables
    assert {found[name].said for name in needing} == {"needs the schema"}
    assert found["durability"].verdict is FINE


async def test_another_schema(database: Database) -> None:
    """Older or newer than the program: which it is, and what to do."""
    await database.pool.execute("DELETE FROM caspen_sync.migration WHERE number = $1", NEWEST)
    holds((await looked(database.dsn))["schema"], BAD, f"lacks migration {NEWEST}", "run caspen-sync migrate")
    await database.pool.execute("INSERT INTO caspen_sync.migration VALUES ($1, 'a'), (9999, 'b')", NEWEST)
    holds((await looked(database.dsn))["schema"], BAD, "at migration 9999", "install a newer caspen-sync")


async def test_versions(database: Database) -> None:
    """Workers that are alive and of another version are named; those that are gone are not."""
    insert = "INSERT INTO caspen_sync.worker VALUES ('default', $1, $2, now(), now() - make_interval(secs => $3))"
    await database.pool.execute(insert, "a", __version__, 1.0)
    await database.pool.execute(insert, "b", "0.0.1", 3600.0)
    holds((await looked(database.dsn))["version"], FINE, f"{__version__}, and so are all workers that run: 1")
    await database.pool.execute(insert, "c", "0.0.2", 1.0)
    found = (await looked(database.dsn))["version"]
    holds(found, HM, f"this is {__version__}, and workers of version 0.0.2 are", "one version on all hosts")


async def test_the_triggers_are_those_of_the_migrations(database: Database) -> None:
    """A new trigger has to be thought of in the check."""
    rows = await database.rows(query("check_triggers"))
    assert sorted(row["name"] for row in rows) == sorted(TRIGGERS)


@pytest.mark.parametrize("trigger", TRIGGERS)
async def test_triggers(database: Database, trigger: str) -> None:
    """Switched off, for replicas only, or dropped; switched on for good is well."""
    alter = "ALTER TABLE caspen_sync.outbox"
    for how, verdict in (("DISABLE", BAD), ("ENABLE REPLICA", BAD), ("ENABLE ALWAYS", FINE)):
        await database.pool.execute(f"{alter} {how} TRIGGER {trigger}")
        mend = f"ENABLE TRIGGER {trigger}" if verdict is BAD else ""
        holds((await looked(database.dsn))["triggers"], verdict, trigger, mend)
    await database.pool.execute(f"DROP TRIGGER {trigger} ON caspen_sync.outbox")
    holds((await looked(database.dsn))["triggers"], BAD, f"lost its trigger {trigger}", "0002_triggers.sql")


async def test_notify(database: Database) -> None:
    """Switched off for the database, for a role, or for that role in the database."""
    name = urlsplit(database.dsn).path.removeprefix("/")
    async with user_with(database, None) as dsn:
        role = urlsplit(dsn).username
        for target, place in (
            (f'DATABASE "{name}"', f"database {name}"),
            (f"ROLE {role}", f"role {role}"),
            (f'ROLE {role} IN DATABASE "{name}"', f"role {role} in database {name}"),
        ):
            await database.pool.execute(f"ALTER {target} SET caspen_sync.notify = 'off'")
            found = (await looked(database.dsn))["notify"]
            holds(found, HM, f"off for {place}: changes from there are found by polling, every 5 s", "RESET")
            await database.pool.execute(f"ALTER {target} RESET caspen_sync.notify")
    holds((await looked(database.dsn))["notify"], FINE, "wakes the workers")


# -- rights ----------------------------------------------------------------------------------------------------------


async def test_the_list_of_rights_is_what_roles_sql_grants(database: Database) -> None:
    """What is read out of the file is, role by role, exactly what Postgres made of it."""
    tables = [row["name"] for row in await database.rows(query("check_tables"))]
    in_the_catalog = """
        SELECT a.privilege_type AS privilege, c.relname::text AS relation, NULL AS attribute
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
        WHERE n.nspname = 'caspen_sync' AND a.grantee = $1::regrole
        UNION ALL
        SELECT a.privilege_type, c.relname::text, t.attname::text
        FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
             aclexplode(t.attacl) a
        WHERE n.nspname = 'caspen_sync' AND a.grantee = $1::regrole
        UNION ALL
        SELECT a.privilege_type, NULL, NULL FROM pg_namespace n, aclexplode(n.nspacl) a
        WHERE n.nspname = 'caspen_sync' AND a.grantee = $1::regrole
    """
    for role in ROLES:
        granted = {Right(*row) for row in await database.rows(in_the_catalog, role)}
        assert rights_of(role, tables) == granted


@pytest.mark.parametrize(
    ("revoked", "said"),
    [
        ("DELETE ON caspen_sync.queue", "lacks DELETE on queue"),
        ("UPDATE ON caspen_sync.rate_slot, caspen_sync.account", "lacks UPDATE on account, rate_slot"),
        ("USAGE ON SCHEMA caspen_sync", "lacks USAGE on the schema caspen_sync"),
    ],
)
async def test_a_right_that_is_missing(database: Database, revoked: str, said: str) -> None:
    """Which right on what the login lacks, and whose; and that the role itself lacks it."""
    async with user_with(database, "caspen_sync_worker") as dsn:
        await database.pool.execute(f"REVOKE {revoked} FROM caspen_sync_worker")
        found = await looked(dsn)
        login = urlsplit(dsn).username
        holds(found["rights"], BAD, f"{login} {said}", f'GRANT caspen_sync_worker TO "{login}"')
        assert found["rights"].exit_code == 78
        holds(found["roles"], HM, f"caspen_sync_worker {said}", "caspen-sync migrate --roles")


@pytest.mark.parametrize("role", [None, "caspen_sync_writer", "caspen_sync_reader"])
async def test_a_login_that_is_no_worker(database: Database, role: str | None) -> None:
    """Each other role lacks something, and no look fails for want of it but the ones that tell."""
    async with user_with(database, role) as dsn:
        found = await looked(dsn)
    holds(found["rights"], BAD, "DELETE on account, appointment", "GRANT caspen_sync_worker")
    assert {name for name, one in found.items() if one.verdict is BAD} <= {"rights", "schema"}
    assert found["roles"].verdict is FINE


async def test_a_login_that_does_not_inherit(database: Database) -> None:
    """It was granted the role already; what it lacks is the inheriting."""
    async with user_with(database, None) as dsn:
        login = urlsplit(dsn).username
        await database.pool.execute(f"ALTER ROLE {login} NOINHERIT; GRANT caspen_sync_worker TO {login}")
        found = (await looked(dsn))["rights"]
        new = await database.value("SELECT current_setting('server_version_num')::int") >= GRANTS_SAY_INHERIT
        mend = f'GRANT caspen_sync_worker TO "{login}" WITH INHERIT TRUE' if new else f'ALTER ROLE "{login}" INHERIT'
        holds(found, BAD, f"{login} has the role caspen_sync_worker, and does not inherit", mend)
        assert found.mend is not None
        await database.pool.execute(found.mend)
        assert (await looked(dsn))["rights"].verdict is FINE


async def test_a_reader_s_rights(database: Database) -> None:
    """Rights on columns are looked at column by column."""
    await database.pool.execute("REVOKE SELECT (lane, state) ON caspen_sync.outbox FROM caspen_sync_reader")
    found = (await looked(database.dsn))["roles"]
    holds(found, HM, "caspen_sync_reader lacks SELECT on outbox (lane), outbox (state)", "migrate --roles")


async def test_no_roles(server: Server) -> None:
    """A clinic may do without the roles, or lack one of them: a warning."""
    admin = await asyncpg.connect(server.dsn())
    for role, said in ((ROLES[0], f"there is no {ROLES[0]}"), (ROLES[1], ""), (ROLES[2], "are not used")):
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        holds((await looked(server.dsn()))["roles"], HM, said, "caspen-sync migrate --roles")
    await admin.close()


# -- the server ------------------------------------------------------------------------------------------------------


async def test_what_a_crash_could_lose(server: Server) -> None:
    """Each setting that is off is named (the tests' server runs without fsync)."""
    found = (await looked(server.dsn()))["durability"]
    holds(found, HM, "fsync is off", "ALTER SYSTEM SET fsync = on; then SELECT pg_reload_conf()")
    server.set(full_page_writes="off")
    await server.restart("fast")
    holds((await looked(server.dsn()))["durability"], HM, "fsync, full_page_writes is off", "full_page_writes = on")


@pytest.mark.long
async def test_a_standby(server: Server) -> None:
    """A server that only reads is no place for a worker: 69, and the rest is skipped."""
    await server.restart_as_standby()
    found = await looked(server.dsn())
    holds(found["database"], BAD, "the server is read-only: a standby", "does database.dsn lead to the wrong one?")
    assert found["database"].exit_code == 69
    assert {one.said for name, one in found.items() if name != "database"} == {"needs the database"}


async def test_connections(database: Database) -> None:
    """The limits of the login and of the database count, and what others have of them does."""
    async with user_with(database, "caspen_sync_worker") as dsn:
        login = urlsplit(dsn).username
        await database.pool.execute(f"ALTER ROLE {login} CONNECTION LIMIT 11")
        holds((await looked(dsn))["connections"], FINE, f"the limit of role {login} leaves room for 11")
        other = await asyncpg.connect(dsn)
        other_too = await asyncpg.connect(dsn)
        holds((await looked(dsn))["connections"], BAD, "leaves room for 9", f'ALTER ROLE "{login}" CONNECTION LIMIT')
        await other.close()
        await other_too.close()
        await registered(database)
        insert = "INSERT INTO caspen_sync.worker VALUES ('default', 'w', '1', now(), now())"
        await database.pool.execute(insert)
        holds((await looked(dsn))["connections"], HM, "1 is running", "CONNECTION LIMIT")


async def test_old_snapshots(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is open and old is named with its process, one in another database is not."""
    monkeypatch.setattr("worker.check.upkeep.OLD_S", 0.0)
    elsewhere = await asyncpg.connect(database.dsn, database="postgres")
    async with database.pool.acquire() as conn, elsewhere.transaction(isolation="repeatable_read"):
        await elsewhere.fetchval("SELECT 1")
        holds((await looked(database.dsn))["snapshots"], FINE, "none")
        async with conn.transaction(isolation="repeatable_read"):
            pid = await conn.fetchval("SELECT pg_backend_pid()")
            holds((await looked(database.dsn))["snapshots"], HM, f"session {pid} of ", f"terminate_backend({pid})")
            async with user_with(database, "caspen_sync_worker") as dsn:
                holds((await looked(dsn))["snapshots"], FINE, "of 1 only the age in transactions is seen")
        async with conn.transaction():  # no snapshot any more, but a number of its own, which does the same
            await conn.execute("INSERT INTO caspen_sync.account VALUES ('a', 1, 1, 1, 0)")
            holds((await looked(database.dsn))["snapshots"], HM, f"session {pid} of ")
    await elsewhere.close()


@pytest.mark.long
async def test_what_else_holds_dead_rows(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared transaction that was left behind, and a slot that nobody reads."""
    monkeypatch.setattr("worker.check.upkeep.OLD_S", 0.0)
    server.set(max_prepared_transactions="2")
    await server.restart("fast")
    async with looked_into(server.dsn()) as database:
        await database.pool.execute("BEGIN; CREATE TABLE x (); PREPARE TRANSACTION 'left'")
        found = (await looked(server.dsn()))["snapshots"]
        holds(found, HM, "prepared transaction left of postgres", "ROLLBACK PREPARED")
        await database.pool.execute("ROLLBACK PREPARED 'left'")
        holds((await looked(server.dsn()))["snapshots"], FINE, "none")


@pytest.mark.skipif(PARTITIONED, reason="partitions have the settings; see test_partitioned.py")
async def test_dead_rows(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead rows are counted by table; a table that autovacuum leaves out is told before it has any."""
    await database.pool.execute("ALTER TABLE caspen_sync.queue SET (autovacuum_enabled = off)")
    mend = "ALTER TABLE caspen_sync.queue RESET (autovacuum_enabled)"
    holds((await looked(database.dsn))["dead_rows"], HM, "autovacuum leaves out queue", mend)
    await database.pool.execute("ALTER TABLE caspen_sync.queue RESET (autovacuum_enabled)")
    async with database.pool.acquire() as conn:
        for number in range(9):
            await conn.execute("INSERT INTO caspen_sync.rate_slot VALUES ('a', $1, now())", number)
        await conn.execute("DELETE FROM caspen_sync.rate_slot")
        await conn.execute("SELECT pg_stat_force_next_flush()")
        await conn.execute("SELECT 1")
    holds((await looked(database.dsn))["dead_rows"], FINE, "rate_slot 9 of 9")
    monkeypatch.setattr("worker.check.upkeep.FEW_DEAD", 8)
    holds((await looked(database.dsn))["dead_rows"], HM, "rate_slot was cleaned never", "VACUUM caspen_sync.rate_slot")


# -- accounts --------------------------------------------------------------------------------------------------------


async def test_accounts_that_nobody_works_for(database: Database) -> None:
    """Changes of an account that is not configured, taken in or not, are told, unless a worker elsewhere has it."""
    store = await registered(database, account="south")
    await registered(database, account="idle")
    for account in ("default", "nroth", "south"):
        await database.write("app_1", {"note": NOTE}, account=account)
    await store.take_in(["south"])
    found = (await looked(database.dsn))["accounts"]
    holds(found, HM, "changes wait for nroth, south, which no", "add [accounts.nroth]")
    await store.heartbeat(["default", "south"], running_s=1.0)
    holds((await looked(database.dsn))["accounts"], HM, "changes wait for nroth, which no")
    await store.heartbeat(["nroth"], running_s=1.0)
    accounts = {"default": {"token": "t-2f9c-1"}, "nroth": {"token": "t-2f9c-2"}}
    holds((await looked(database.dsn, accounts=accounts))["accounts"], FINE, "default, nroth; no other has changes")


async def test_a_name_that_is_no_bare_key(database: Database) -> None:
    """What is to be added is valid TOML."""
    await database.write("app_1", {"note": NOTE}, account="north east")
    holds((await looked(database.dsn))["accounts"], HM, "north east", 'add [accounts."north east"]')


async def test_an_account_that_the_workers_do_not_know_yet(database: Database) -> None:
    """It was configured after the service began; where no worker runs at all, cron may come by."""
    store = await registered(database, account="south")
    await database.write("app_1", {"note": NOTE})
    assert (await looked(database.dsn))["accounts"].verdict is FINE
    await store.heartbeat(["south"], running_s=1.0)
    found = (await looked(database.dsn))["accounts"]
    holds(found, HM, "wait for default, and of the workers that run none", "it does not know account default yet")
    await store.heartbeat(["default"], running_s=1.0)
    assert (await looked(database.dsn))["accounts"].verdict is FINE


async def test_accounts_are_found_by_steps(database: Database) -> None:
    """Beside thousands of changes, waiting and idle appointments, it reads a few rows for each account."""
    for account in ("default", "nroth"):
        await database.pool.execute(
            """
            INSERT INTO caspen_sync.outbox (account, appointment_id, changes)
            SELECT $1, 'app_' || i, '{"note": null}' FROM generate_series(1, 3000) AS i
            """,
            account,
        )
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.queue (account, appointment_id, lane, due_at, newest_id)
        SELECT account, 'app_' || i, 'live', due_at, 1 FROM generate_series(1, 3000) AS i,
            (VALUES ('idle', 'infinity'::timestamptz), ('due', now()), ('wait', now() + '1 h')) AS x (account, due_at)
        """
    )
    conn = await asyncpg.connect(**(connect_options(DatabaseSettings()) | {"dsn": database.dsn}))
    prepared = await conn.prepare(query("check_accounts"))
    plan = (await prepared.explain(30.0, analyze=True))[0]["Plan"]
    read = list(scanned(plan))
    await conn.close()
    assert {kind for kind, _ in read} <= {"Index Scan", "Index Only Scan"}
    assert sum(rows for _, rows in read) <= 12, read
    assert [row["account"] for row in await database.rows(query("check_accounts"), 30.0)] == [
        "default", "due", "nroth", "wait",
    ]  # fmt: skip
