"""Functions that somebody puts in the way of our statements: an exact match in `public` beats one of Postgres's own
that takes any type, and would run with the rights of whoever calls it."""

from __future__ import annotations

import pytest

from tests.support.claims import accepted, registered, settle, the_claim
from tests.support.database import Database
from tests.support.processes import DIRECT, TOKEN, command, environment
from tests.support.roles import connected_with, user_with
from worker.errors import SchemaMissing
from worker.sandbox import Sandbox, SandboxSettings

TYPES = ("text", "bigint", "integer", "double precision", "timestamptz", "jsonb", "uuid", "boolean", "interval")


async def trapped(database: Database) -> None:
    """What an application may do that owns `public`, as it does where it made the database, but has no other role than
    the writer's."""
    await database.pool.execute(
        "CREATE TABLE public.caught (who name, by text); GRANT INSERT ON public.caught TO PUBLIC"
    )
    async with connected_with(database, "caspen_sync_writer") as conn:
        me = await conn.fetchval("SELECT current_user")
        await database.pool.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {me}")
        for kind in TYPES:
            await conn.execute(
                f"""
                CREATE FUNCTION public.unnest({kind}[]) RETURNS SETOF {kind} LANGUAGE sql AS $$
                    INSERT INTO public.caught VALUES (current_user, 'unnest');
                    SELECT pg_catalog.unnest($1) $$;
                CREATE FUNCTION public.cardinality({kind}[]) RETURNS integer LANGUAGE sql AS $$
                    INSERT INTO public.caught VALUES (current_user, 'cardinality');
                    SELECT pg_catalog.cardinality($1) $$;
                CREATE FUNCTION public.to_jsonb({kind}) RETURNS jsonb LANGUAGE sql AS $$
                    INSERT INTO public.caught VALUES (current_user, 'to_jsonb');
                    SELECT pg_catalog.to_jsonb($1) $$;
                """
            )
        await database.pool.execute(
            f"REVOKE ALL ON SCHEMA public FROM {me}; REASSIGN OWNED BY {me} TO current_user; DROP OWNED BY {me}"
        )


@pytest.mark.parametrize("pooled", [False, pytest.param(True, marks=pytest.mark.long)], ids=["direct", "pooled"])
async def test_nobody_puts_a_function_in_our_way(database: Database, pooled: bool) -> None:
    """A worker works, and a person looks and decides, with Postgres's own functions, whatever others there are."""
    await trapped(database)
    await database.write("app_1", {"note": "a long enough note"})
    await database.write("app_2", {"note": 7})
    async with (
        user_with(database, "caspen_sync_worker") as dsn,
        Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox,
    ):
        # As behind a PgBouncer: each transaction brings its own settings.
        env = environment(dsn, sandbox.base_url, {"DATABASE__PGBOUNCER": "true"} if pooled else DIRECT)
        assert (await command("run", "--once", env=env)).exit_code == 65
        ended = await command("parked", "retry", "--all", env=env)
        assert ended.exit_code == 0, ended.stderr
    assert await database.rows("SELECT DISTINCT who, by FROM public.caught") == []
    assert await database.states() == {"synced": 1, "pending": 1}


async def test_a_trigger_of_somebody_elses_that_names_no_schema_is_told_of(database: Database) -> None:
    """What it means is found nowhere in our sessions; `migrate` would mend nothing."""
    await database.pool.execute(
        """
        CREATE TABLE public.mine (id text);
        CREATE FUNCTION public.copied() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO mine VALUES (NEW.id); RETURN NEW; END $$;
        CREATE TRIGGER copied AFTER INSERT ON caspen_sync.appointment FOR EACH ROW EXECUTE FUNCTION public.copied();
        """
    )
    store = await registered(database)
    await database.write("app_1", {"note": "n"})
    held = await the_claim(store)
    with pytest.raises(SchemaMissing, match="does a trigger of your own name the schema") as told:
        await settle(store, accepted(held))
    assert "caspen-sync migrate" not in str(told.value)
