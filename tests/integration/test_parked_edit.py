"""`parked edit`: another body for a parked change, out of a file, standard input or an editor."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
from pathlib import Path

import pytest

from tests.support.canary import NOTE
from tests.support.claims import registered, snapshot, the_claim
from tests.support.database import Database
from tests.support.parking import BY, found, offline, parked, state, synced
from tests.support.processes import DIRECT, TOKEN, command, environment, start
from tests.support.terminal import CTRL_C, at_a_terminal
from tests.support.waiting import eventually
from worker.merge import fold
from worker.parked import discard
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings

MENDED = "the mended words"
BODY = json.dumps({"note": MENDED, "room_id": 7})


@pytest.fixture
async def change(database: Database) -> int:
    return await parked(database, "app_1", {"note": NOTE, "room_id": 404})


@pytest.mark.long
async def test_from_end_to_end(database: Database) -> None:
    """The API refused a room; with another one the change goes out. The old body is kept beside who and why."""
    change = await database.write("app_1", {"note": NOTE, "room_id": NO_SUCH_ROOM})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        env = environment(database.dsn, sandbox.base_url)
        assert (await command("run", "--once", env=env)).exit_code == 65
        ended = await command("parked", "edit", str(change), "--reason", "moved", env=env, given=BODY.encode())
        assert (ended.exit_code, ended.stderr) == (0, "")
        assert ended.stdout == f"change {change} is pending again, at its old place\n"
        assert (await command("run", "--once", env=env)).exit_code == 0
        assert sandbox.log[-1].body == json.loads(BODY)
    (row,) = await database.rows("SELECT action, reason, who, former_changes FROM caspen_sync.intervention")
    assert (row["action"], row["reason"]) == ("edit", "moved")
    assert json.loads(row["former_changes"]) == {"note": NOTE, "room_id": NO_SUCH_ROOM}


async def test_from_a_file(database: Database, change: int, tmp_path: Path) -> None:
    """--file names it; - is standard input."""
    file = tmp_path / "body.json"
    file.write_text(BODY, encoding="utf-8")
    assert (await command("parked", "edit", str(change), "--file", str(file), env=offline(database))).exit_code == 0
    assert fold((await the_claim(await registered(database))).changes) == json.loads(BODY)
    other = str(await parked(database, "app_2", {"note": NOTE}))
    ended = await command("parked", "edit", other, "--file", "-", env=offline(database), given=BODY.encode())
    assert ended.exit_code == 0


@pytest.mark.long
async def test_what_is_newer_is_left_out_of_an_edit_too(database: Database, change: int) -> None:
    """An edit is a retry with other words: newer changes win; what they leave nothing of is discarded."""
    await synced(database, "app_1", {"note": "newer words"})
    other = str(await parked(database, "app_2", {"room_id": 404}))
    await synced(database, "app_2", {"note": "newer words"})
    ended = await command("parked", "edit", str(change), env=offline(database), given=BODY.encode())
    assert ended.stdout.endswith("without note, which newer changes have set since\n")
    ended = await command("parked", "edit", other, env=offline(database), given=b'{"note": "mended"}')
    assert "nothing is left to send, so it is discarded" in ended.stdout


UNSENDABLE = (
    (b"", "standard input is no JSON"),
    (b'{"note": "never said"', "line 1, column 22"),
    (b'["never said"]', "no JSON object"),
    (b'{"note": "never said \xff"}', "standard input is not UTF-8"),
    (b'{"note": "never said \\u0000"}', "Postgres cannot hold"),
    (b'{"note": "never said \\ud800"}', "note: must be valid Unicode"),
    (b"{}", "must name at least one field"),
    (b'{"room_id": "never said"}', "room_id: must be an integer"),
    (b'{"rom_id": 7}', "rom_id: is not a field of the API"),
    (b'{"starts_at": "never said"}', "starts_at: must be an ISO 8601 time"),
    (b'{"note": "' + b"never said" * 30 + b'"}', "note: must be at most 255 characters"),
    (b'{"resource_ids": [' + b"1, " * 40_000 + b"1]}", "must be at most 65536 bytes"),
)


@pytest.mark.long
async def test_what_cannot_be_sent(database: Database, change: int) -> None:
    """64, with what is wrong and never what was written; not a row differs."""
    before = await snapshot(database, "outbox", "queue", "intervention")
    env = offline(database)
    ends = await asyncio.gather(
        *(command("parked", "edit", str(change), env=env, given=given) for given, _ in UNSENDABLE)
    )
    for ended, (_, words) in zip(ends, UNSENDABLE, strict=True):
        assert (ended.exit_code, ended.stdout) == (64, "")
        assert words in ended.stderr
        assert "nothing was changed" in ended.stderr
        assert "never said" not in ended.stderr
    assert await snapshot(database, "outbox", "queue", "intervention") == before


async def test_the_same_again(database: Database, change: int) -> None:
    """What says the same as before changes nothing, and points at retry."""
    ended = await command(
        "parked", "edit", str(change), env=offline(database), given=b'{"room_id": 404, "note": "%s"}' % NOTE.encode()
    )
    assert (ended.exit_code, "parked retry" in ended.stdout) == (0, True)
    assert await state(database, change) == "parked"


def arguments_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")


async def test_never_in_the_list_of_processes(database: Database, change: int) -> None:
    """The body is in no argument. While it is waited for, somebody else deals with the change, and that is told."""
    process = await start("parked", "edit", str(change), env=offline(database, DIRECT), piped=True)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE '%rejection r%'"
    await eventually(lambda: database.value(waiting + " AND datname = current_database()"), what="it waits for a body")
    assert process.stdin
    process.stdin.write(BODY[:-1].encode())
    await process.stdin.drain()
    assert MENDED not in arguments_of(process.pid)
    async with database.pool.acquire() as conn:
        assert await discard(conn, await found(database, change), BY) == 1
    out, err = await process.communicate(b"}")
    assert (process.returncode, out) == (64, b"")
    assert f"somebody else dealt with change {change} meanwhile; nothing was changed" in err.decode()
    assert await database.value("SELECT count(*) FROM caspen_sync.intervention") == 1


# -- the editor --------------------------------------------------------------------------------------------------------


def editor(tmp_path: Path, script: str) -> str:
    """A script in an editor's place, in a folder with a blank in its name. It writes down what it was given."""
    folder = tmp_path / "my tools"
    folder.mkdir(exist_ok=True)
    path = folder / "editor"
    seen = f'echo "$1" > \'{tmp_path}/path\'; stat -c \'%a %A\' "$1" "$(dirname "$1")" > \'{tmp_path}/stat\''
    path.write_text(f"#!/bin/bash\n{seen}; cat \"$1\" > '{tmp_path}/seen'\n{script}\n", encoding="utf-8")
    path.chmod(stat.S_IRWXU)
    return f"'{path}'"


async def edited(tmp_path: Path) -> Path:
    """Waits until the editor is open; returns the file that it is open on."""
    path = tmp_path / "path"
    await eventually(lambda: (tmp_path / "seen").exists() and path.read_text().strip(), what="the editor opens")
    return Path(path.read_text(encoding="utf-8").strip())


async def test_an_editor(database: Database, change: int, tmp_path: Path) -> None:
    """In a terminal, $EDITOR opens on the old body in a file that nobody else can read, gone afterwards; nothing of it
    is on the screen."""
    env = offline(database) | {"EDITOR": editor(tmp_path, f"echo '{BODY}' > \"$1\""), "VISUAL": ""}
    async with at_a_terminal("parked", "edit", str(change), "--reason", "by hand", env=env) as terminal:
        assert await terminal.ended() == 0
        assert terminal.screen == f"change {change} is pending again, at its old place\r\n"
    assert json.loads((tmp_path / "seen").read_text(encoding="utf-8")) == {"note": NOTE, "room_id": 404}
    assert (tmp_path / "stat").read_text() == "600 -rw-------\n700 drwx------\n"
    assert not Path((tmp_path / "path").read_text(encoding="utf-8").strip()).parent.exists()
    assert fold((await the_claim(await registered(database))).changes) == json.loads(BODY)


FAILING = (
    ("exit 3", 64, "ended with 3; nothing was changed"),
    ("kill -9 $$", 64, "ended with -9; nothing was changed"),
    ('rm "$1"', 64, "No such file or directory"),
    ("printf '\\xff' > \"$1\"", 64, "cannot be read as UTF-8"),
    ('echo \'{"note": "never said\' > "$1"', 64, "what you wrote is no JSON"),
    ('echo \'{"room_id": "never said"}\' > "$1"', 64, "room_id: must be an integer"),
    ("true", 0, "it says the same as before; nothing was changed"),
    ('mv "$1" "$1~"; cp "$1~" "$1"', 0, "it says the same as before; nothing was changed"),
)


@pytest.mark.long
async def test_editors_that_fail(database: Database, change: int, tmp_path: Path) -> None:
    """One that ends badly, breaks the file or leaves it as it is: said so, nothing is done, and the file is gone."""

    async def edit(number: int, script: str, exit_code: int, words: str) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        env = offline(database) | {"EDITOR": editor(folder, script), "VISUAL": ""}
        async with at_a_terminal("parked", "edit", str(change), env=env) as terminal:
            assert await terminal.ended() == exit_code
            assert words in terminal.screen
            assert "never said" not in terminal.screen
        assert not (await edited(folder)).parent.exists()

    await asyncio.gather(*(edit(number, *case) for number, case in enumerate(FAILING)))
    assert await state(database, change) == "parked"
    assert await database.value("SELECT count(*) FROM caspen_sync.intervention") == 0


MISSING = (("no-such-editor", "No such file"), ("'unclosed", "is no command"), ("/etc", "Permission denied"))


async def test_editors_that_are_not_there(database: Database, change: int) -> None:
    """64, the editor's name, and what else could be done."""

    async def edit(name: str, words: str) -> None:
        env = offline(database) | {"EDITOR": name, "VISUAL": ""}
        async with at_a_terminal("parked", "edit", str(change), env=env) as terminal:
            assert await terminal.ended() == 64
            assert words in terminal.screen
            assert "--file" in terminal.screen

    await asyncio.gather(*(edit(*case) for case in MISSING))
    assert await state(database, change) == "parked"


async def test_ctrl_c_is_the_editors(database: Database, change: int, tmp_path: Path) -> None:
    """Ctrl-C in the editor reaches the editor, and what is saved after it counts."""
    heard = tmp_path / "heard"
    wait = f"trap \"touch '{heard}'\" INT; touch '{tmp_path}/ready'; while [ ! -e '{heard}' ]; do sleep 0.02; done"
    script = f"{wait}; echo '{BODY}' > \"$1\""
    env = offline(database) | {"EDITOR": editor(tmp_path, script), "VISUAL": ""}
    async with at_a_terminal("parked", "edit", str(change), env=env) as terminal:
        await eventually((tmp_path / "ready").exists, what="the editor waits")
        terminal.type(CTRL_C)
        assert await terminal.ended() == 0
    assert await state(database, change) == "pending"


@pytest.mark.parametrize("number", [signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
async def test_a_terminal_that_goes_away(
    database: Database, change: int, tmp_path: Path, number: signal.Signals
) -> None:
    """The connection breaks while the editor is open: nothing is done, and no note is left in a temporary folder."""
    env = offline(database) | {"EDITOR": editor(tmp_path, "sleep 60"), "VISUAL": ""}
    async with at_a_terminal("parked", "edit", str(change), env=env) as terminal:
        file = await edited(tmp_path)
        assert file.exists()
        terminal.process.send_signal(number)
        assert await terminal.ended() == 128 + number
    assert not file.parent.exists()
    assert await state(database, change) == "parked"


async def test_one_ctrl_c_ends_the_wait_for_standard_input(database: Database, change: int) -> None:
    """At a terminal with --file -, one Ctrl-C is enough."""
    async with at_a_terminal("parked", "edit", str(change), "--file", "-", env=offline(database, DIRECT)) as terminal:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE '%rejection r%'"
        await eventually(lambda: database.value(waiting + " AND datname = current_database()"), what="it waits")
        terminal.type(CTRL_C)
        assert await asyncio.wait_for(terminal.ended(), 10) == 130
    assert await state(database, change) == "parked"
