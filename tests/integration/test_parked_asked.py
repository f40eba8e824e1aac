"""`parked retry` and `parked discard`: what is asked back in a terminal, and what is done and written down."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.canary import NOTE
from tests.support.claims import snapshot
from tests.support.database import Database
from tests.support.parking import BY, found, offline, parked, synced
from tests.support.processes import command
from tests.support.terminal import CTRL_C, CTRL_D, at_a_terminal
from worker.parked import discard

TABLES = (
    *("outbox", "appointment_lock", "arrival", "queue", "account", "rate_slot", "appointment", "attempt"),
    *("worker", "run_up", "rejection", "intervention", "migration"),
)


@pytest.fixture
async def three(database: Database) -> list[int]:
    """Two of one appointment, and one that newer changes have left nothing of."""
    ids = [await parked(database, name, {"note": NOTE}) for name in ("app_1", "app_1", "app_2")]
    await synced(database, "app_2", {"note": "newer words"})
    return ids


@pytest.mark.parametrize("verb", ["retry", pytest.param("discard", marks=pytest.mark.long)])
async def test_a_dry_run_writes_nothing(database: Database, three: list[int], verb: str) -> None:
    """Each change and the count are said; not a row of any table differs afterwards, nor is anything asked."""
    before = await snapshot(database, *TABLES)
    env = offline(database)
    for args in (["--all"], [str(three[0])], ["--appointment", "app_1", "--yes"]):
        ended = await command("parked", verb, *args, "--dry-run", "--reason", "a trial", env=env)
        assert (ended.exit_code, ended.stderr) == (0, "")
        assert f"change {three[0]} of app_1" in ended.stdout
        assert ended.stdout.endswith("nothing was changed\n")
    async with at_a_terminal("parked", verb, "--all", "--dry-run", env=env) as terminal:
        assert await terminal.ended() == 0
        assert "Type" not in terminal.screen
    assert await snapshot(database, *TABLES) == before


@pytest.mark.parametrize("verb", ["retry", pytest.param("discard", marks=pytest.mark.long)])
async def test_the_right_count(database: Database, three: list[int], verb: str) -> None:
    """In a terminal, whoever means several changes types how many."""
    async with at_a_terminal("parked", verb, "--all", "--reason", "why not", env=offline(database)) as terminal:
        await terminal.shows(f"{verb} 3 parked changes? Type 3 to go on: ")
        terminal.type("3\n")
        assert await terminal.ended() == 0
    assert await database.states() == (
        {"pending": 2, "discarded": 1, "synced": 1} if verb == "retry" else {"discarded": 3, "synced": 1}
    )
    rows = await database.rows("SELECT change_id, action, reason FROM caspen_sync.intervention ORDER BY change_id")
    assert [tuple(row) for row in rows] == [(change, verb, "why not") for change in three]
    assert all("@" in row["who"] for row in await database.rows("SELECT who FROM caspen_sync.intervention"))


@pytest.mark.usefixtures("three")
async def test_anything_else(database: Database) -> None:
    """A wrong count, no answer, the end of input, or one Ctrl-C: nothing is done, and that is said."""
    before = await snapshot(database, *TABLES)

    async def answered(typed: str, exit_code: int) -> None:
        async with at_a_terminal("parked", "discard", "--all", env=offline(database)) as terminal:
            await terminal.shows("Type 3 to go on: ")
            terminal.type(typed)
            assert await terminal.ended() == exit_code
            assert "nothing was changed" in terminal.screen
            assert "Traceback" not in terminal.screen

    cases = (("2\n", 0), ("\n", 0), ("yes 3\n", 0), (CTRL_D, 0), (CTRL_C, 130))
    await asyncio.gather(*(answered(*case) for case in cases))
    assert await snapshot(database, *TABLES) == before


async def test_when_nothing_is_asked(database: Database, three: list[int]) -> None:
    """Not with --yes, not about one change that was named, not about none, and not where there is no terminal."""
    env = offline(database)
    for args, states in (
        (["--error", "no such error"], {"parked": 3, "synced": 1}),
        ([str(three[0])], {"parked": 2, "discarded": 1, "synced": 1}),
        (["--appointment", "app_1", "--yes"], {"parked": 1, "discarded": 2, "synced": 1}),
    ):
        async with at_a_terminal("parked", "discard", *args, env=env) as terminal:
            assert await terminal.ended() == 0
            assert "Type" not in terminal.screen
        assert await database.states() == states
    ended = await command("parked", "discard", "--all", env=env)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "1 change discarded\n", "")


@pytest.mark.parametrize("verb", ["retry", pytest.param("discard", marks=pytest.mark.long)])
async def test_somebody_was_faster(database: Database, three: list[int], verb: str) -> None:
    """While one person thinks, another deals with one of the changes: the first one is told, and it is done once."""
    async with at_a_terminal("parked", verb, "--appointment", "app_1", env=offline(database)) as terminal:
        await terminal.shows("Type 2 to go on: ")
        async with database.pool.acquire() as conn:
            assert await discard(conn, await found(database, three[0]), BY) == 1
        terminal.type("2\n")
        assert await terminal.ended() == 0
        assert "1 change" in terminal.screen
        assert "somebody else dealt with 1 change meanwhile" in terminal.screen
    rows = await database.rows("SELECT change_id, who FROM caspen_sync.intervention ORDER BY id")
    assert (rows[0]["change_id"], rows[0]["who"], rows[1]["change_id"], len(rows)) == (three[0], BY.who, three[1], 2)


@pytest.mark.long
async def test_who(database: Database, three: list[int]) -> None:
    """Who became root by sudo is named, not root."""
    ended = await command("parked", "discard", str(three[0]), env=offline(database) | {"SUDO_USER": "ann"})
    assert ended.exit_code == 0
    assert (await database.value("SELECT who FROM caspen_sync.intervention")).startswith("ann@")
