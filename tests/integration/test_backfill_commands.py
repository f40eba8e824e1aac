"""`caspen-sync backfill list|status|cancel`: what was loaded before, and an end to it."""

from __future__ import annotations

import asyncio
import json
import signal

from tests.support.backfilling import backfill
from tests.support.canary import NOTE
from tests.support.claims import snapshot
from tests.support.database import Database
from tests.support.parking import offline
from tests.support.processes import command, start
from tests.support.roles import user_with
from tests.support.terminal import at_a_terminal
from tests.support.waiting import eventually

TABLES = ("outbox", "arrival", "queue", "backfill", "backfill_line", "backfill_left_out")


async def settled(database: Database, appointment: str, state: str) -> None:
    """As if the API had answered."""
    await database.pool.execute(
        "UPDATE caspen_sync.outbox SET state = $2, finished_at = now(), last_error = 'x' WHERE appointment_id = $1",
        appointment,
        state,
    )


async def some(database: Database) -> None:
    """One that is under way and one in another account that is done."""
    await backfill(database, "may.csv", lines=1200)
    await settled(database, "app_0", "synced")
    await settled(database, "app_1", "parked")
    await backfill(database, "april.csv", lines=2, account="north")
    await settled(database, "app_0", "synced")
    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'synced' WHERE account = 'north'")


async def test_list(database: Database) -> None:
    """Each in each account, the newest first, with its state and its counts; as JSON an array of the same."""
    env = offline(database)
    nothing, none = await asyncio.gather(
        command("backfill", "list", env=env), command("backfill", "list", "--json", env=env)
    )
    assert (nothing.exit_code, nothing.stdout) == (0, "no backfill was loaded; caspen-sync backfill FILE\n")
    assert json.loads(none.stdout) == []
    await some(database)
    listed, as_json = await asyncio.gather(
        command("backfill", "list", env=env), command("backfill", "list", "--json", env=env)
    )
    assert (listed.exit_code, listed.stderr) == (0, "")
    header, first, second = (line.split() for line in listed.stdout.splitlines())
    assert header[:3] == ["NAME", "ACCOUNT", "STATE"]
    assert (first[:3], first[6:]) == (["april.csv", "north", "done"], ["2", "2", "0", "0", "0", "0"])
    assert (second[:3], second[6:]) == (["may.csv", "default", "working"], ["1200", "1", "1198", "1", "0", "0"])
    objects = json.loads(as_json.stdout)
    assert [(one["name"], one["state"], one["synced"], one["pending"]) for one in objects] == [
        ("april.csv", "done", 2, 0),
        ("may.csv", "working", 1, 1198),
    ]


async def test_status(database: Database) -> None:
    """A sentence first, then each account; as JSON one object. An unknown name is 64, and those that there are are
    named."""
    env = offline(database)
    await some(database)
    said, as_json, unknown = await asyncio.gather(
        command("backfill", "status", "may.csv", env=env),
        command("backfill", "status", "may.csv", "--json", env=env),
        command("backfill", "status", "june.csv", env=env),
    )
    sentence, empty, header, *_ = said.stdout.splitlines()
    assert sentence.startswith("1 of 1,200 changes of may.csv are synced, 1 parked; 1,198 wait; done in about ")
    assert sentence.endswith(" requests a minute")
    assert (empty, header[:14]) == ("", "ACCOUNT  STATE")
    answer = json.loads(as_json.stdout)
    assert answer["estimate"]["accounts"][0]["requests"] == 1198
    assert answer["done_at"]
    assert (answer["name"], answer["state"], len(answer["accounts"])) == ("may.csv", "working", 1)
    assert (unknown.exit_code, unknown.stdout) == (64, "")
    assert "none is called june.csv; there are april.csv, may.csv" in unknown.stderr


async def test_status_of_one_that_is_not_whole(database: Database) -> None:
    """It is said how to load the rest."""
    await backfill(database, "may.csv", lines=3)
    await database.pool.execute("UPDATE caspen_sync.backfill SET lines = 10, accepted_nth = 10")
    said = await command("backfill", "status", "may.csv", env=offline(database))
    assert said.stdout.startswith(
        "0 of 10 changes of may.csv are synced; only 3 are loaded: run the same command again; 3 wait; "
    )


async def test_what_was_left_out(database: Database) -> None:
    """--left-out names line, change, appointment, and each field with the change that had set it; never a value."""
    await backfill(database, "may.csv", lines=3)
    await database.pool.execute(
        "INSERT INTO caspen_sync.backfill_left_out VALUES ('default', 'may.csv', 2, 2, 'app_1', 2, '{note,room_id}',"
        " '{17,18}')"
    )
    env = offline(database)
    said, as_json = await asyncio.gather(
        command("backfill", "status", "may.csv", "--left-out", env=env),
        command("backfill", "status", "may.csv", "--left-out", "--json", env=env),
    )
    assert said.stdout == (
        "line 2, change 2 of app_1: note (change 17), room_id (change 18)\n1 line without what newer changes had set\n"
    )
    (one,) = map(json.loads, as_json.stdout.splitlines())
    assert (one["line"], one["fields"], one["newer"]) == (2, ["note", "room_id"], [17, 18])


async def test_the_reader_may_look(database: Database) -> None:
    """list and status work for the role that may read no body."""
    await some(database)
    async with user_with(database, "caspen_sync_reader") as dsn:
        env = offline(database) | {"CASPEN_SYNC_DATABASE__DSN": dsn, "CASPEN_SYNC_DATABASE__PGBOUNCER": "false"}
        for args in (["list"], ["status", "may.csv"], ["status", "may.csv", "--left-out"]):
            ended = await command("backfill", *args, env=env)
            assert (ended.exit_code, ended.stderr) == (0, "")
            assert NOTE not in ended.stdout


async def test_cancel(database: Database) -> None:
    """A dry run does nothing; without a terminal nothing is asked. What was synced or parked stays, and so does the
    other backfill; a second time there is nothing to do."""
    await some(database)
    await backfill(database, "june.csv", lines=2, first=5000)
    env = offline(database)
    before = await snapshot(database, *TABLES)
    trial = await command("backfill", "cancel", "may.csv", "--dry-run", env=env)
    assert (trial.exit_code, trial.stdout) == (
        0,
        "1,198 pending changes of may.csv would be discarded; nothing was changed\n",
    )
    assert await snapshot(database, *TABLES) == before
    ended = await command("backfill", "cancel", "may.csv", env=env)
    assert (ended.exit_code, ended.stdout) == (0, "1,198 changes of may.csv discarded; it is cancelled\n")
    assert ended.stderr.splitlines()[-1] == "caspen-sync: may.csv: 1,198 of 1,198 changes discarded"
    assert await database.states() == {"synced": 3, "parked": 1, "discarded": 1198, "pending": 2}
    again = await command("backfill", "cancel", "may.csv", env=env)
    assert (again.exit_code, again.stdout) == (0, "nothing of may.csv is pending; nothing was changed\n")
    said = await command("backfill", "status", "may.csv", env=env)
    assert "1,198 discarded; it was cancelled by " in said.stdout


async def test_cancel_is_interrupted(database: Database) -> None:
    """It says that not all of it is discarded, and so does status, until it is run again."""
    await backfill(database, "may.csv", lines=2)
    env = offline(database)
    await database.pool.execute(
        "INSERT INTO caspen_sync.queue (account, appointment_id, lane, newest_id, token, due_at, leased_until, worker)"
        " SELECT account, appointment_id, lane, id, gen_random_uuid(), later, later, 'w'"
        " FROM caspen_sync.outbox, (SELECT now() + interval '1 h') AS lease (later) WHERE appointment_id = 'app_1'"
    )
    process = await start("backfill", "cancel", "may.csv", env=env)
    await eventually(lambda: database.value("SELECT count(*) FROM caspen_sync.outbox WHERE state = 'discarded'"))
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 75
    said = "caspen-sync: may.csv: interrupted; what is not discarded is sent all the same; run the same command again"
    assert err.decode().splitlines()[-1].startswith(said)
    shown = await command("backfill", "status", "may.csv", env=env)
    assert "; 1 is not discarded yet, and sent all the same: caspen-sync backfill cancel may.csv\n" in shown.stdout
    await database.pool.execute("UPDATE caspen_sync.queue SET leased_until = NULL, due_at = now()")
    again = await command("backfill", "cancel", "may.csv", env=env)
    assert (again.exit_code, again.stdout) == (0, "1 change of may.csv discarded; it is cancelled\n")


async def test_cancel_while_it_is_loaded(database: Database) -> None:
    """What is not in the outbox by then is told besides, and no line is told twice."""
    await backfill(database, "may.csv", lines=3)
    await database.pool.execute("UPDATE caspen_sync.backfill SET lines = 5, accepted_nth = 5")
    ended = await command("backfill", "cancel", "may.csv", env=offline(database))
    assert ended.stdout == "3 changes of may.csv discarded, 2 lines not loaded; it is cancelled\n"


async def test_what_was_left_out_is_forgotten(database: Database) -> None:
    """After worker.retention_days the count is all that is known."""
    await backfill(database, "may.csv", lines=1)
    await database.pool.execute("UPDATE caspen_sync.backfill SET left_out = 1, forgotten_at = now()")
    env = offline(database)
    counts, lines = await asyncio.gather(
        command("backfill", "status", "may.csv", env=env),
        command("backfill", "status", "may.csv", "--left-out", env=env),
    )
    forgotten = "which ones is forgotten, after worker.retention_days\n"
    assert counts.stdout.endswith(f"newer changes had set some of 1 line: {forgotten}")
    assert lines.stdout == forgotten


async def test_cancel_in_a_terminal(database: Database) -> None:
    """The number of changes is asked back; anything else does nothing."""
    await backfill(database, "may.csv", lines=3)
    env = offline(database)
    async with at_a_terminal("backfill", "cancel", "may.csv", env=env) as terminal:
        await terminal.shows("discard 3 pending changes of may.csv? Type 3 to go on: ")
        terminal.type("2\n")
        assert await terminal.ended() == 0
        assert "nothing was changed" in terminal.screen
    assert await database.states() == {"pending": 3}
    async with at_a_terminal("backfill", "cancel", "may.csv", env=env) as terminal:
        await terminal.shows("Type 3 to go on: ")
        terminal.type("3\n")
        assert await terminal.ended() == 0
        assert "3 changes of may.csv discarded; it is cancelled" in terminal.screen
    assert await database.states() == {"discarded": 3}


async def test_help(database: Database) -> None:
    """`backfill --help` says how to reach the actions, and they have help of their own."""
    env = offline(database)
    said, actions = await asyncio.gather(
        command("backfill", "--help", env=env), command("backfill", "list", "--help", env=env)
    )
    assert "caspen-sync backfill list, status NAME, cancel NAME" in " ".join(said.stdout.split())
    assert "newest first" in actions.stdout
