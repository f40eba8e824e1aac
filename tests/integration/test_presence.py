"""The table of workers: who has ended does not stand in it."""

from __future__ import annotations

from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings


async def test_a_good_bye_comes_after_the_last_heartbeat(database: Database) -> None:
    """A run that is done while its heartbeat is still being written is off the list afterwards, and stays so."""
    await database.pool.execute(
        """
        CREATE FUNCTION public.take_time() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.7); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON caspen_sync.worker FOR EACH ROW EXECUTE FUNCTION public.take_time()
        """
    )
    await database.write("app_1", {"note": None})

    async def nobody_is_busy() -> bool:
        return bool(
            await database.value(
                "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'caspen-sync' AND state = 'active'"
            )
        )

    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        ended = await command("run", "--once", env=environment(database.dsn, sandbox.base_url))
    assert (ended.exit_code, await database.states()) == (0, {"synced": 1})
    # A statement of a process that is gone goes on until it wants to answer.
    await eventually(nobody_is_busy, what="no statement is running")
    assert await database.value("SELECT count(*) FROM caspen_sync.worker") == 0
