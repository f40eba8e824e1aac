"""`caspen-sync status --watch`: in a terminal, and for programs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator

import pytest

from tests.support.canary import NOTE
from tests.support.claims import registered
from tests.support.database import Database
from tests.support.parking import offline
from tests.support.processes import command, start
from tests.support.terminal import CTRL_C, CTRL_Z, Terminal, at_a_terminal
from tests.support.waiting import eventually

WATCH = ("status", "--watch", "0.1")
XTERM = {"TERM": "xterm", "NO_COLOR": ""}
ALTERNATE, ORDINARY = "\x1b[?1049h", "\x1b[?1049l"


def frame(terminal: Terminal) -> list[str]:
    """The lines that are on the screen, without what colours and places them."""
    newest = terminal.screen.rpartition("\x1b[H")[2]
    return [re.sub(r"\x1b\[\??\d*[a-zA-Z]", "", line) for line in newest.split("\r\n")]


@contextlib.asynccontextmanager
async def watching(database: Database, every: str = "0.1", **environment: str) -> AsyncIterator[Terminal]:
    """A person who looks at `status --watch`, once the first figures are there."""
    env = offline(database) | XTERM | environment
    async with at_a_terminal("status", "--watch", every, env=env) as terminal:
        terminal.resize(150, 50)
        await terminal.shows("STATE")
        yield terminal


async def test_in_place(database: Database) -> None:
    """What changes is written over what was there, on a screen of its own, in colour; q ends it with 0 and gives the
    terminal back as it was."""
    await registered(database)
    async with watching(database) as terminal:
        assert terminal.screen.startswith(ALTERNATE)
        assert "\x1b[32meverything is synced\x1b[0m" in terminal.screen
        await database.write("app_1", {"note": NOTE})
        await terminal.shows("\x1b[33m1 change waits and no worker is running: caspen-sync run --once\x1b[0m")
        assert not terminal.echoes()
        terminal.type("xq")
        assert await terminal.ended() == 0
        assert terminal.screen.endswith(ORDINARY)
        assert terminal.echoes()
        assert terminal.screen.count("\n") == terminal.screen.count("\x1b[K")  # no line but those of a frame
        assert "\x1b[2J" not in terminal.screen  # nothing flickers


@pytest.mark.long
@pytest.mark.parametrize("no_colour", [{"NO_COLOR": "1"}])
async def test_ctrl_c(database: Database, no_colour: dict[str, str]) -> None:
    """Ends it with 0, too. Without colours there are none."""
    await registered(database)
    async with watching(database, **no_colour) as terminal:
        terminal.type(CTRL_C)
        assert await terminal.ended() == 0
        assert terminal.screen.endswith(ORDINARY)
        assert "everything is synced" in terminal.screen
        assert "\x1b[32m" not in terminal.screen


@pytest.mark.long
async def test_ctrl_z(database: Database) -> None:
    """Gives the terminal back for as long as it is stopped, and takes it again, all of it, when it goes on. The command
    is alone in its session here, so that the kernel does not stop it."""
    await registered(database)
    async with watching(database, "60") as terminal:
        shown = terminal.screen.count("everything is synced")
        terminal.type(CTRL_Z)
        await eventually(lambda: terminal.screen.count("everything is synced") > shown, what="it is shown again")
        assert terminal.screen.count(ORDINARY) == 1
        assert ORDINARY in terminal.screen.rpartition(ALTERNATE)[0]
        assert not terminal.echoes()
        terminal.type("q")
        assert await terminal.ended() == 0
        assert terminal.echoes()


@pytest.mark.long
async def test_a_window_that_is_resized(database: Database) -> None:
    """At once, lines are cut to its width, the sentence goes on in the next, and as many are shown as there is space
    for."""
    for number in range(8):
        await registered(database, account=f"account{number}")
    await database.write("app_1", {"note": NOTE}, account="account0")
    async with watching(database, "60") as terminal:
        terminal.resize(30, 10)
        await terminal.shows("1 change waits and no worker")
        await eventually(lambda: len(frame(terminal)) == 10, what="as many lines")
        assert max(map(len, frame(terminal))) == 30
        terminal.resize(200, 50)
        await eventually(lambda: len(frame(terminal)) == 15, what="all of it again")
        assert frame(terminal)[-1] == "no worker is running"


@pytest.mark.long
async def test_a_database_that_cannot_answer(database: Database) -> None:
    """That is shown in the place of the figures, and then the figures again."""
    await registered(database)
    async with watching(database) as terminal:
        await database.pool.execute("ALTER TABLE caspen_sync.queue RENAME TO queue_away")
        await terminal.shows("\x1b[31mdatabase: the schema is missing or incomplete: ")
        assert len(frame(terminal)) == 2
        await database.pool.execute("ALTER TABLE caspen_sync.queue_away RENAME TO queue")
        await eventually(lambda: frame(terminal)[-1] == "no worker is running", what="the figures are back")
        await database.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'caspen-sync' AND datname = current_database()"
        )
        shown = len(terminal.screen)
        await eventually(lambda: terminal.screen.count("everything", shown) > 3, what="it goes on")
        assert terminal.process.returncode is None


@pytest.mark.long
@pytest.mark.parametrize(("json_too", "environment"), [(True, {}), (False, {"TERM": "dumb"})])
async def test_for_programs(database: Database, json_too: bool, environment: dict[str, str]) -> None:
    """Snapshots one after the other: with --json, one object a line. A fault of the database is told of on stderr, so
    that stdout stays what can be parsed. Ctrl-C ends it with 0."""
    await registered(database)
    args = (*WATCH, "--json") if json_too else WATCH
    process = await start(*args, env=offline(database) | environment)
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(20):
        begun = [await process.stdout.readline() for _ in range(12)]
        if json_too:
            assert json.loads(begun[0])["accounts"][0]["account"] == "default"
            await database.pool.execute("ALTER TABLE caspen_sync.queue RENAME TO queue_away")
            assert (await process.stderr.readline()).startswith(b"caspen-sync: database: the schema is missing")
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
    assert process.returncode == 0
    lines = b"".join([*begun, out]).decode().splitlines()
    assert "\x1b" not in "".join(lines)
    if json_too:
        assert all(json.loads(line)["unregistered"] == [] for line in lines)
    else:
        assert (lines[1], lines[9]) == ("everything is synced", "everything is synced")


@pytest.mark.long
async def test_for_a_person_who_reads_json(database: Database) -> None:
    """Objects one after the other stay where they were written: a terminal's alternate screen would take them away."""
    await registered(database)
    async with at_a_terminal(*WATCH, "--json", env=offline(database) | XTERM) as terminal:
        await eventually(lambda: terminal.screen.count("\n") > 2, what="some objects")
        terminal.type("q")
        assert await terminal.ended() == 0
        assert "\x1b" not in terminal.screen


@pytest.mark.long
async def test_not_more_often_than_that(database: Database) -> None:
    """Each look may count a large backlog."""
    ended = await command("status", "--watch", "0.09", env=offline(database))
    assert (ended.exit_code, ended.stdout) == (64, "")
    assert ended.stderr.endswith("argument --watch: '0.09' is less than 0.1 seconds\n")


@pytest.mark.long
async def test_each_snapshot_at_once(database: Database) -> None:
    """It does not wait for others to fill a buffer with."""
    await registered(database)
    process = await start("status", "--watch", "60", "--json", env=offline(database))
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert json.loads(await process.stdout.readline())["workers"] == []
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 0


@pytest.mark.long
async def test_a_reader_that_has_seen_enough(database: Database) -> None:
    """`status --watch | head` ends when head does."""
    await registered(database)
    process = await start(*WATCH, "--json", env=offline(database))
    assert process.stdout is not None
    async with asyncio.timeout(20):
        await process.stdout.readline()
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        assert await process.wait() == 0
