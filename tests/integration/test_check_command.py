"""`caspen-sync check` as an operator meets it: a real process, its exit codes and what it prints."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.canary import NOTE
from tests.support.claims import registered
from tests.support.dark import proxy_to
from tests.support.database import Database
from tests.support.processes import DIRECT, TOKEN, Ended, command, environment
from tests.support.rawserver import closed_port
from tests.support.servers import Server
from tests.support.terminal import at_a_terminal
from worker.sandbox import Sandbox, SandboxSettings

NOWHERE = f"http://127.0.0.1:{closed_port()}/v1"
PASSWORD = "p4ssw0rd2f9c"


def env_of(dsn: str, base_url: str, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    return environment(dsn, base_url, DIRECT | {"HTTP__LISTEN": ""} | dict(settings or {}))


async def checked(*args: str, env: Mapping[str, str]) -> Ended:
    ended = await command("check", *args, env=env, limit_s=30)
    assert ended.stderr == ""
    assert PASSWORD not in ended.stdout
    return ended


def lines_of(ended: Ended, verdict: str) -> list[str]:
    return [line for line in ended.stdout.splitlines() if line.startswith(f"{verdict} ")]


@pytest.mark.usefixtures("durable")
async def test_all_is_well(database: Database) -> None:
    """0, a line for each thing, and how many at the end; no colours where no terminal is."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        await registered(database)
        ended = await checked("--token", env=env_of(database.dsn, sandbox.base_url))
    assert ended.exit_code == 0
    *findings, summary = ended.stdout.splitlines()
    assert len({line.index(line.split()[1]) for line in findings}) == 1
    assert all(line.startswith("ok ") for line in findings), findings
    assert summary == f"{len(findings)} ok"
    assert "\x1b" not in ended.stdout


@pytest.mark.usefixtures("durable")
async def test_what_failed_and_how_to_mend_it(database: Database) -> None:
    """The mend stands on the next line, below what it mends; the worst decides the exit code: 78 over 69."""
    await database.pool.execute("ALTER TABLE caspen_sync.outbox DISABLE TRIGGER outbox_notify")
    await database.write("app_1", {"note": NOTE}, account="nr\x1b[2Joth")
    ended = await checked(env=env_of(database.dsn, NOWHERE))
    assert ended.exit_code == 78
    lines = ended.stdout.splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith("failed   triggers"))
    column = lines[number].index("the trigger")
    assert lines[number + 1] == " " * column + "ALTER TABLE caspen_sync.outbox ENABLE TRIGGER outbox_notify"
    assert len(lines_of(ended, "failed")) == 2
    assert "nr\N{REPLACEMENT CHARACTER}[2Joth" in lines_of(ended, "warning")[0]
    assert lines[-1].endswith("1 warning, 2 failed, 1 skipped")


@pytest.mark.long
async def test_exit_codes(database: Database, tmp_path: Path) -> None:
    """78 for the configuration, 69 for what is out of reach, 77 for a token."""
    ended = await checked("--config", str(tmp_path / "missing.toml"), env=env_of(database.dsn, NOWHERE))
    assert ended.exit_code == 78
    assert lines_of(ended, "failed")[0].startswith("failed   config")
    assert "missing.toml" in ended.stdout
    assert len(lines_of(ended, "skipped")) == 21

    nowhere = f"postgresql://u:{PASSWORD}@127.0.0.1:{closed_port()}/clinic"
    async with Sandbox(SandboxSettings(tokens=("another",), limit=1000)) as sandbox:
        ended = await checked(env=env_of(nowhere, sandbox.base_url))
        assert (ended.exit_code, len(lines_of(ended, "failed"))) == (69, 1)
        assert "cannot be reached" in ended.stdout
        ended = await checked("--dsn", nowhere, env=env_of(database.dsn, sandbox.base_url))
        assert ended.exit_code == 69
        await registered(database)
        ended = await checked("--token", env=env_of(database.dsn, sandbox.base_url))
        assert (ended.exit_code, len(lines_of(ended, "failed"))) == (77, 1)
    assert (await checked(env=env_of(database.dsn, NOWHERE))).exit_code == 69


async def test_help() -> None:
    """It says what each exit code means here, and that --token costs something."""
    ended = await command("check", "--help")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert all(f"{code} " in ended.stdout for code in (0, 64, 69, 70, 77, 78))
    assert "each costs a request of the budget" in " ".join(ended.stdout.split())


async def test_a_token_is_no_argument(database: Database) -> None:
    """Whoever takes --token for a place to put one is told that it is none; the token is not said."""
    for args in (["--token", TOKEN], [f"--token={TOKEN}"]):
        ended = await command("check", *args, env=env_of(database.dsn, NOWHERE))
        assert (ended.exit_code, ended.stdout) == (64, "")
        assert TOKEN not in ended.stderr
    assert ended.stderr.endswith("argument --token: takes no value\n")


@pytest.mark.usefixtures("durable")
async def test_json(database: Database) -> None:
    """An array of objects with the same four keys."""
    ended = await checked("--json", env=env_of(database.dsn, NOWHERE))
    assert ended.exit_code == 69
    found: Sequence[dict[str, Any]] = json.loads(ended.stdout)
    assert {tuple(one) for one in found} == {("name", "verdict", "said", "mend")}
    assert {one["verdict"] for one in found} == {"ok", "failed", "skipped"}
    api = next(one for one in found if one["name"] == "api")
    assert api["mend"] == "is api.base_url right, and may this host speak to it?"
    assert next(one for one in found if one["name"] == "schema")["mend"] is None


@pytest.mark.parametrize(("variables", "colours"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
async def test_colours(database: Database, variables: dict[str, str], *, colours: bool) -> None:
    """In a terminal that shows them, unless somebody does not want any."""
    env = {name: value for name, value in env_of(database.dsn, NOWHERE).items() if name != "NO_COLOR"}
    async with at_a_terminal("check", env=env | {"TERM": "xterm"} | variables) as terminal:
        assert await terminal.ended() == 69
        assert ("\x1b[32mok" in terminal.screen, "\x1b[31mfailed" in terminal.screen) == (colours, colours)
        assert ("\x1b" in terminal.screen) == colours


@pytest.mark.long
async def test_everything_is_dark(server: Server) -> None:
    """A database and an API that take connections and say nothing: it is over in time, and says of both why."""
    async with proxy_to(server.port) as proxy, proxy_to(closed_port()) as api:
        proxy.dark_for_new = api.dark_for_new = True
        began = time.monotonic()
        env = env_of(server.dsn(port=proxy.port), f"https://127.0.0.1:{api.port}/v1")
        async with asyncio.timeout(20):
            ended = await checked("--token", env=env)
    assert time.monotonic() - began < 15
    assert ended.exit_code == 69
    database, reached = lines_of(ended, "failed")
    assert "no answer in time" in database
    assert "no answer within 8 s" in reached
