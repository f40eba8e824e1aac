"""How far a backfill is, as a person sees it in a terminal, and elsewhere."""

from __future__ import annotations

import re

import pytest

from tests.support.backfilling import MODULE, backfill
from tests.support.database import Database
from tests.support.processes import TOKEN, command, environment
from tests.support.terminal import CTRL_C, at_a_terminal
from tests.support.waiting import eventually
from worker.sandbox import Sandbox, SandboxSettings

NAME = "a-rather-long-name-of-a-file-may-2026.csv"
# The API's headers tell of more, which is worth a log line: one that comes while the bar is shown.
SLOW = {"ACCOUNTS__DEFAULT__RATE_LIMIT": "20", "ACCOUNTS__DEFAULT__RATE_WINDOW_S": "0.5"}
XTERM = {"TERM": "xterm", "COLUMNS": ""}


def sandbox() -> Sandbox:
    return Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000))


async def test_the_bar(database: Database) -> None:
    """It is drawn in place, with rate, budget and time; log lines go above it, and at the end it stands there once,
    with the result below. The cursor is never hidden, so that whatever ends it, the shell has one."""
    await backfill(database, NAME, lines=60)
    async with sandbox() as api:
        env = environment(database.dsn, api.base_url, SLOW) | XTERM
        async with at_a_terminal(NAME, env=env, module=MODULE, columns=100) as terminal:
            await terminal.shows("requests and")
            assert await terminal.ended() == 0
            picture, screen = terminal.picture, terminal.screen
    assert "of 20 in use, 2 kept for live changes" in screen
    assert "done in about" in screen
    assert "limit_differs" in picture[0]
    assert [line for line in picture if "of 60 changes" in line] == [
        line for line in picture if line.startswith("a-rather-long-name-of-a-file-…") and line.endswith("(100 %)")
    ] + [f"60 of 60 changes of {NAME} are synced"]
    assert picture[-1] == f"60 of 60 changes of {NAME} are synced"
    assert "\x1b[?25h" in screen.partition(NAME[:10])[0]


@pytest.mark.long
async def test_a_narrow_terminal(database: Database) -> None:
    """No line is longer than the terminal is wide, and the count is whole: it is the name that is cut."""
    await backfill(database, NAME, lines=40)
    async with sandbox() as api:
        env = environment(database.dsn, api.base_url, SLOW) | XTERM
        async with at_a_terminal(NAME, env=env, module=MODULE, columns=40) as terminal:
            assert await terminal.ended() == 0
            *drawn, result = terminal.picture
    assert max(map(len, drawn)) <= 40
    assert drawn[-1].startswith("a-rathe")
    assert drawn[-1].endswith("40 of 40 changes (100 %)")
    assert result == f"40 of 40 changes of {NAME} are synced"


@pytest.mark.parametrize(
    ("how", "plain"),
    [({"TERM": "dumb"}, True), pytest.param({"TERM": "xterm", "NO_COLOR": "1"}, False, marks=pytest.mark.long)],
)
async def test_terminals_without(database: Database, how: dict[str, str], plain: bool) -> None:
    """TERM=dumb gets lines, and nothing that steers it; NO_COLOR a bar without colours."""
    await backfill(database, NAME, lines=5)
    async with sandbox() as api:
        env = environment(database.dsn, api.base_url) | {"COLUMNS": ""} | how
        async with at_a_terminal(NAME, env=env, module=MODULE, columns=100) as terminal:
            assert await terminal.ended() == 0
            screen = terminal.screen
    assert ("\x1b" in screen) is not plain
    assert "\x1b[3" not in screen
    assert "\x1b[9" not in screen
    assert (f"caspen-sync: {NAME}: 5 of 5 changes (100 %)" in screen) is plain


@pytest.mark.long
async def test_ctrl_c(database: Database) -> None:
    """It says that it stops, waits for what is on the wire, and ends with how to go on and 75."""
    await backfill(database, "may.csv", lines=12)
    settings = {"ACCOUNTS__DEFAULT__RATE_LIMIT": "4", "ACCOUNTS__DEFAULT__RATE_WINDOW_S": "60"}
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), latency_s=1.5)) as api:
        env = environment(database.dsn, api.base_url, settings) | XTERM
        async with at_a_terminal("may.csv", env=env, module=MODULE, columns=100) as terminal:
            await eventually(lambda: len(api.log) == 4, what="four requests, which is all")
            terminal.type(CTRL_C)
            await terminal.shows("stopping: what is on the wire is waited for")
            assert await terminal.ended() == 75
            picture = " ".join(terminal.picture)
    assert "4 of 12 changes (33.3 %) of may.csv are done" in picture
    assert "caspen-sync: interrupted; 8 changes of may.csv are left: run the same command again" in picture
    assert await database.states() == {"synced": 4, "pending": 8}


@pytest.mark.long
async def test_a_pipe(database: Database) -> None:
    """A line when it begins, one for each ten seconds at the most, and one at its end."""
    await backfill(database, "may.csv", lines=60)
    async with sandbox() as api:
        env = environment(database.dsn, api.base_url, SLOW | {"LOG__LEVEL": "error"})
        ended = await command("may.csv", env=env, module=MODULE)
    # What the log says comes in between, before the first of them where the answers are quicker than the first look.
    first, *others = [line for line in ended.stderr.splitlines() if line.startswith("caspen-sync: may.csv: ")]
    assert re.match(r"caspen-sync: may\.csv: \d+ of 60 changes", first)
    assert [line.partition(" changes")[0] for line in others] == ["caspen-sync: may.csv: 60 of 60"]
    assert ended.stdout == "60 of 60 changes of may.csv are synced\n"
