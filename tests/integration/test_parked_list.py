"""`parked list` and `parked show`: which changes are parked, and everything about one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence

import asyncpg
import pytest

from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.parking import BY, NO_ROOM, found, offline, park, parked, synced
from tests.support.processes import TOKEN, command, environment
from tests.support.rawserver import Request, answer, raw_server
from tests.support.roles import connected_with, user_with
from worker.parked import discard, retry

ESCAPES = "evil\x1b[31mred\x07\n\x9b2J\u202eid"


async def listed(database: Database, *args: str) -> list[int]:
    ended = await command("parked", "list", "--json", *args, env=offline(database))
    assert (ended.exit_code, ended.stderr) == (0, "")
    return [change["id"] for change in json.loads(ended.stdout)]


@pytest.fixture
async def several(database: Database) -> Sequence[int]:
    """Parked an hour apart, the first one four hours ago."""
    ids = [
        await parked(database, "app_1", {"note": NOTE, "room_id": 7}),
        await parked(database, "app_2", {"note": NOTE}, error="404 no such appointment"),
        await parked(database, "app_1", {"note": NOTE}, account="north", error="gave up after 20 attempts: 503"),
        await parked(database, "-1", {"note": NOTE}, account="north"),
    ]
    for hours, change in enumerate(reversed(ids), start=1):
        await database.pool.execute(
            "UPDATE caspen_sync.outbox SET finished_at = now() - make_interval(hours => $2) WHERE id = $1",
            change,
            hours,
        )
    return ids


@pytest.mark.long
async def test_each_filter(database: Database, several: Sequence[int]) -> None:
    """Account, appointment, since, error, all of them together, and the limit: just those changes, oldest first."""
    since = str(await database.value("SELECT (now() - interval '150 minutes')::text"))
    expected = {
        (): [0, 1, 2, 3],
        ("--account", "north"): [2, 3],
        ("--appointment=-1",): [3],
        ("--since", "150m"): [2, 3],
        ("--since", since): [2, 3],
        ("--since", "2901-01-01T10:00+02:00"): [],
        ("--error", "ROOM_ID"): [0, 3],
        ("--error", "%"): [],
        ("--account", "north", "--appointment", "app_1", "--since", "1d", "--error", "gave up"): [2],
        ("--limit", "3"): [0, 1, 2],
    }
    got = await asyncio.gather(*(listed(database, *args) for args in expected))
    assert dict(zip(expected, got, strict=True)) == {
        args: [several[number] for number in numbers] for args, numbers in expected.items()
    }


@pytest.mark.long
async def test_what_is_not_parked_is_not_listed(database: Database) -> None:
    """Pending, synced and discarded changes do not show; an empty list says so, and is [] for a program."""
    await synced(database, "app_1", {"note": NOTE})
    gone = await parked(database, "app_1", {"room_id": 7})
    async with database.pool.acquire() as conn:
        await discard(conn, await found(database, gone), BY)
    await database.write("app_1", {"note": NOTE})
    assert (await command("parked", "list", env=offline(database))).stdout == "no change is parked\n"
    ended = await command("parked", "list", "--error", "x", env=offline(database))
    assert ended.stdout == "no change is parked that matches\n"
    assert await listed(database) == []


async def test_the_shape_of_the_list(database: Database) -> None:
    """A program gets these keys and no body; a person a table with a line for each change and no body."""
    change = await parked(database, "app_1", {"note": NOTE, "room_id": 7})
    await synced(database, "app_1", {"note": "newer words"})
    ended = await command("parked", "list", "--json", env=offline(database))
    (only,) = json.loads(ended.stdout)
    assert only.pop("created_at") <= only.pop("parked_at")
    assert only == {
        "id": change,
        "account": "default",
        "appointment_id": "app_1",
        "lane": "live",
        "source": None,
        "attempts": 1,
        "error": NO_ROOM,
        "fields": ["note", "room_id"],
        "superseded": ["note"],
    }
    ended = await command("parked", "list", "--limit", "1", env=offline(database))
    header, row, more = ended.stdout.splitlines()
    assert header.split() == ["ID", "ACCOUNT", "APPOINTMENT", "PARKED", "ATTEMPTS", "FIELDS", "ERROR"]
    assert row.startswith(f"{change}   default  app_1")
    assert row.endswith(NO_ROOM)
    assert "--limit" in more


async def test_show(database: Database) -> None:
    """The change, its body, the API's words field by field, its requests, and who did what and why; the same for a
    program. stderr holds nothing of it."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        said = {"message": "The given data was invalid.", "errors": {"room_id": ["is \x1b[2J taken", "is too far"]}}
        writer.write(answer("422 Unprocessable Content", json.dumps(said).encode()))
        await writer.drain()
        writer.close()

    change = await database.write("app_1", {"note": NOTE, "room_id": 7})
    async with raw_server(respond) as server:
        env = environment(database.dsn, server.base_url)
        for _ in range(2):
            assert (await command("run", "--once", env=env)).exit_code == 65
            async with database.pool.acquire() as conn:
                await retry(conn, await found(database), BY)
        assert (await command("run", "--once", env=env)).exit_code == 65

    ended = await command("parked", "show", str(change), env=offline(database))
    assert (ended.exit_code, ended.stderr) == (0, "")
    for text in (
        f"change {change} of appointment app_1, account default, live lane\n",
        "1 attempt: 422 validation failed: room_id\n",
        f'  "note": "{NOTE}",\n',
        "  The given data was invalid.\n  room_id: is \N{REPLACEMENT CHARACTER}[2J taken\n  room_id: is too far\n",
        "retry by ann@desk: the room exists now\n",
    ):
        assert text in ended.stdout
    assert ended.stdout.count(" rejected ") == 3

    ended = await command("parked", "show", str(change), "--json", env=offline(database))
    shown = json.loads(ended.stdout)
    assert shown["changes"] == {"note": NOTE, "room_id": 7}
    assert shown["messages"]["errors"]["room_id"] == ["is \x1b[2J taken", "is too far"]
    assert [one["change_ids"] for one in shown["attempt_log"]] == [[change]] * 3
    assert [(one["action"], one["who"], one["reason"]) for one in shown["interventions"]] == [
        ("retry", BY.who, BY.reason)
    ] * 2


async def test_a_change_of_no_time(database: Database) -> None:
    """A writer may say that it was written at infinity; what is told of the others does not suffer."""
    change = await parked(database, "app_1", {"note": NOTE})
    await database.pool.execute("UPDATE caspen_sync.outbox SET created_at = 'infinity'")
    assert (await command("parked", "list", env=offline(database))).exit_code == 0
    ended = await command("parked", "show", str(change), env=offline(database))
    assert (ended.exit_code, "\nwritten -\n" in ended.stdout) == (0, True)


async def test_the_reader_sees_no_words(database: Database) -> None:
    """What the API said and what a change said before may quote a body: neither is for dashboards."""
    await parked(database, "app_1", {"note": NOTE})
    async with connected_with(database, "caspen_sync_reader") as conn:
        for statement in (
            "SELECT messages FROM caspen_sync.rejection",
            "SELECT former_changes FROM caspen_sync.intervention",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)


@pytest.mark.long
async def test_ids_that_are_not_parked(database: Database) -> None:
    """64, and each id with what it is; nothing is done to the others."""
    sound = await synced(database, "app_1", {"note": NOTE})
    change = await parked(database, "app_2", {"note": NOTE})
    env = offline(database)
    for args in (
        ["show", str(sound)],
        ["retry", str(change), str(sound), "999"],
        ["discard", str(change), str(sound), "999"],
        ["edit", str(sound), "--file", "/nowhere"],
        ["retry", str(change), "--account", "north"],
    ):
        ended = await command("parked", *args, env=env)
        assert (ended.exit_code, ended.stdout) == (64, "")
        assert ("parked, account default" if "north" in args else f"{sound} (synced, account default)") in ended.stderr
        assert ("999 (no such change)" in ended.stderr) == ("999" in args)
    assert await listed(database) == [change]


async def test_bad_usage(database: Database) -> None:
    """Neither ids nor a filter, or both: 64 with the reason, and nothing is done."""
    change = str(await parked(database, "app_1", {"note": NOTE}))
    cases = (["retry"], ["discard"], ["retry", change, "--error", "x"], ["discard", change, "--all"])
    for args in cases:
        ended = await command("parked", *args, env=offline(database))
        assert (ended.exit_code, ended.stdout) == (64, "")
        assert ended.stderr.startswith(f"caspen-sync: parked {args[0]}: ")
    assert [str(one.id) for one in await found(database)] == [change]


@pytest.mark.long
async def test_nothing_steers_a_terminal(database: Database) -> None:
    """Control and escape characters in ids, errors and bodies: a person sees marks, a program gets them escaped."""
    change = await parked(database, ESCAPES, {"note": f"note {ESCAPES}"}, error=f"odd {ESCAPES}")
    env = offline(database)
    for args in (
        ["parked", "list"],
        ["parked", "show", str(change)],
        ["parked", "retry", "--all", "--dry-run"],
        ["attempts", ESCAPES],
        ["pause", "default", "--reason", ESCAPES],
        ["status"],
        ["resume", "default"],
    ):
        ended = await command(*args, env=env)
        lines = (ended.stdout + ended.stderr).splitlines()
        assert lines
        assert all(line.isprintable() for line in lines), args
    assert await listed(database, "--appointment", ESCAPES) == [change]


@pytest.mark.parametrize(
    "encoding",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.long),
    ],
)
async def test_a_terminal_of_another_encoding(encoding: dict[str, str], database: Database) -> None:
    """A character that the terminal does not know is shown by its number, and a program gets it all the same."""
    note = "naïve ☃ \N{FACE WITH COLD SWEAT}"
    change = str(await parked(database, "app_☃", {"note": note}, error="ünïcode ☃"))
    env = offline(database) | encoding
    for args in (["list"], ["show", change], ["retry", "--all", "--dry-run"]):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker", "parked", *args),
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert rb"app_\u2603" in out
    ended = await command("parked", "show", change, "--json", env=env)
    assert json.loads(ended.stdout)["changes"] == {"note": note}


@pytest.mark.long
async def test_bodies_that_nobody_can_read(database: Database) -> None:
    """Too deep, or a number of 5,000 digits: shown as they stand, for a person to mend."""
    monsters = ['{"note": ' + "[" * 3000 + "]" * 3000 + "}", '{"room_id": ' + "9" * 5000 + "}"]
    await parked(database, "app_0", {"note": NOTE})
    for number, body in enumerate(monsters, start=1):
        change = await database.value(
            "INSERT INTO caspen_sync.outbox (appointment_id, changes) VALUES ($1, $2) RETURNING id",
            f"app_{number}",
            body,
        )
        await park(database, change)
        ended = await command("parked", "show", str(change), env=offline(database))
        assert (ended.exit_code, ended.stderr) == (0, "")
        assert body in ended.stdout
        ended = await command("parked", "show", str(change), "--json", env=offline(database))
        assert json.loads(ended.stdout)["changes"] == body
        ended = await command("parked", "edit", str(change), env=offline(database), given=b'{"note": "mended"}')
        assert ended.exit_code == 0
    assert len(await found(database)) == 1


@pytest.mark.long
async def test_five_thousand(database: Database) -> None:
    """They are listed, sent again by one command in batches, and each is written down, all within seconds; a reader
    that has seen enough ends the list, and nobody hears of it."""
    await parked(database, "app_0", {"note": NOTE})
    await database.pool.execute(
        """
        WITH changed AS (
            INSERT INTO caspen_sync.outbox (appointment_id, changes, state, finished_at, last_error)
            SELECT 'app_' || n, '{"note": null}', 'parked', now(), 'boom' FROM generate_series(1, 4999) n
            RETURNING account, appointment_id, id
        )
        INSERT INTO caspen_sync.queue (account, appointment_id, lane, due_at, newest_id)
        SELECT account, appointment_id, 'live', 'infinity', id FROM changed
        """
    )
    began = time.monotonic()
    env = offline(database)
    env.pop("PYTHONUNBUFFERED", None)
    ended = await command("parked", "list", env=env)
    assert len(ended.stdout.splitlines()) == 5001
    for args in ("parked list", "parked list --json", "status"):
        piped = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", f"set -o pipefail; {sys.executable} -m worker {args} | head -1"],
            env=env,
            capture_output=True,
            check=False,
        )
        assert (piped.returncode, piped.stderr) == (0, b""), args
    ended = await command("parked", "retry", "--all", env=env)
    assert ended.stdout == "5,000 changes pending again\n"
    assert await database.states() == {"pending": 5000}
    assert await database.value("SELECT count(*) FROM caspen_sync.intervention WHERE action = 'retry'") == 5000
    assert time.monotonic() - began < 20


@pytest.mark.long
async def test_closed_streams(database: Database) -> None:
    """A caller without stdin, stdout or stderr: everything is done as ever, and nothing ends in a fault."""
    await parked(database, "app_1", {"note": NOTE})
    env = offline(database)
    env.pop("PYTHONUNBUFFERED", None)
    for args in ("parked list --json", "parked retry --all"):
        ended = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", f"{sys.executable} -m worker {args} <&- >&- 2>&-"],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, b""), args
    assert await database.states() == {"pending": 1}


@pytest.mark.long
async def test_a_full_disk(database: Database) -> None:
    """What cannot be written is told in one line, with an exit code."""
    env = offline(database)
    env.pop("PYTHONUNBUFFERED", None)
    shell = f"{sys.executable} -m worker status > /dev/full"
    ended = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", shell], env=env, capture_output=True, check=False, text=True
    )
    assert (ended.returncode, ended.stderr) == (69, "caspen-sync: No space left on device\n")


READ = (["parked", "list"], ["parked", "show", "1"], ["attempts", "app_1"], ["status"])
WRITE = (
    ["pause", "default"],
    ["resume", "default"],
    ["parked", "retry", "1"],
    ["parked", "discard", "2"],
    ["parked", "edit", "3"],
)


@pytest.mark.long
async def test_what_the_roles_may(database: Database) -> None:
    """The worker's role may do all of it; the reader's may look at attempts and status, and is told what it lacks."""
    for number in range(3):
        await parked(database, f"app_{number}", {"note": NOTE})
    async with user_with(database, "caspen_sync_reader") as dsn:
        for args in (READ[0], READ[3]):
            ended = await command(
                *args, env=offline(database) | {"CASPEN_SYNC_DATABASE__DSN": dsn}, given=b'{"note": null}'
            )
            assert ended.exit_code == (0 if args[0] in ("attempts", "status") else 78), args
            assert ("caspen_sync_worker" in ended.stderr) == (ended.exit_code == 78)
    assert await database.states() == {"parked": 3}
    async with user_with(database, "caspen_sync_worker") as dsn:
        for args in (*READ, *WRITE):
            ended = await command(
                *args, env=offline(database) | {"CASPEN_SYNC_DATABASE__DSN": dsn}, given=b'{"note": null}'
            )
            assert (ended.exit_code, ended.stderr) == (0, ""), args
    assert await database.states() == {"pending": 2, "discarded": 1}


@pytest.mark.parametrize("args", [READ[0], pytest.param(WRITE[0], marks=pytest.mark.long)])
async def test_no_schema_and_no_database(args: list[str], empty_database: str) -> None:
    """78 where the schema is missing, 69 where nothing listens, each with the mend; never a traceback."""
    ends = {
        78: environment(empty_database, "http://127.0.0.1:1/v1"),
        69: environment("postgresql://u@127.0.0.1:1/clinic", "http://127.0.0.1:1/v1"),
    }
    for exit_code, env in ends.items():
        ended = await command(*args, env=env)
        assert (ended.exit_code, ended.stdout) == (exit_code, "")
        assert ("caspen-sync migrate" if exit_code == 78 else "cannot be reached") in ended.stderr
        assert TOKEN not in ended.stderr
