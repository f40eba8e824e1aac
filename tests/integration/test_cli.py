"""The commands as an operator meets them: real processes, their exit codes and what they say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.support.database import Database, with_database
from tests.support.processes import DIRECT, TOKEN, Ended, command, environment, start, stop
from tests.support.rawserver import closed_port
from tests.support.waiting import eventually
from worker import __version__
from worker.migrate import known_migrations
from worker.sandbox import Sandbox, SandboxSettings

COMMANDS = ["migrate", "run", "sandbox", "demo"]
SECRET = "s3cret-2f9c"
NOWHERE = f"http://127.0.0.1:{closed_port()}/v1"


def bare() -> dict[str, str]:
    """The environment of the tests without any setting of ours, and none of libpq's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CASPEN_SYNC_", "PG"))}


async def said(*args: str, env: Mapping[str, str] | None = None, cwd: str | None = None) -> Ended:
    """Runs a command to its end. Whatever happens, a person never meets a traceback, nor a secret."""
    ended = await command(*args, env=bare() if env is None else env, cwd=cwd)
    for text in (ended.stdout, ended.stderr):
        assert "Traceback" not in text
        assert SECRET not in text
        assert TOKEN not in text
    return ended


def unreachable(**settings: str) -> dict[str, str]:
    """Sound settings, and a database that is not there."""
    return environment(f"postgresql://u:{SECRET}@127.0.0.1:{closed_port()}/clinic", NOWHERE, settings)


# -- help and usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--help"], *([name, "--help"] for name in COMMANDS)])
async def test_help(args: list[str]) -> None:
    """Each command says what it does, on stdout, and ends well."""
    ended = await said(*args)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: caspen-sync")
    if len(args) == 1:
        assert all(name in ended.stdout for name in COMMANDS)
        assert all(f"{code} " in ended.stdout for code in (0, 64, 65, 69, 75, 77, 78))


async def test_version() -> None:
    """`python -m worker` is `caspen-sync`, and says so."""
    ended = await said("--version")
    assert (ended.exit_code, ended.stdout) == (0, f"caspen-sync {__version__}\n")


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["walk"],
        ["run", "--wrong"],
        ["run", "--max-runtime", "5"],
        ["run", "--once", "--max-runtime", "0"],
        ["run", "--once", "--max-runtime", "-1"],
        ["run", "--once", "--max-runtime", "nan"],
        ["run", "--once", "--max-runtime", "inf"],
        ["run", "--once", "--max-runtime", "soon"],
        ["run", "--log-level", "loud"],
        ["run", "--dsn"],
        ["migrate", "now"],
        ["demo", "--changes", "9"],
        ["demo", "--changes", "many"],
        ["sandbox", "--port", "65536"],
        ["sandbox", "--fault", "gremlins=1"],
        ["sandbox", "--fault", "http_500=2"],
        ["sandbox", "--fault", "http_500=0.6", "--fault", "cut=0.6"],
        ["sandbox", "--host", "0.0.0.0"],
        ["sandbox", "--host", "nosuch.invalid"],
    ],
)
async def test_bad_usage(args: list[str]) -> None:
    """64, the reason in the last line, and nothing on stdout."""
    ended = await said(*args)
    assert (ended.exit_code, ended.stdout) == (64, "")
    assert ended.stderr.splitlines()[-1].startswith("caspen-sync")


# -- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["migrate", "run"])
async def test_a_missing_file(name: str, tmp_path: Path) -> None:
    """A configuration that was named and is not there: 78."""
    ended = await said(name, "--config", str(tmp_path / "missing.toml"))
    assert ended.exit_code == 78
    assert "missing.toml" in ended.stderr


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f'[database]\ndns = "{SECRET}"', "database.dns: no such key; did you mean dsn?"),
        (
            f'[api]\nbase_url = "http://api.caspen.com/v1"\n[accounts.default]\ntoken = "{SECRET}"',
            "api.base_url: must be https://",
        ),
        ("[retry]\nmax_attempts = 0", "retry.max_attempts: "),
        (f'[accounts.default]\ntoken = "{SECRET} {SECRET}"', "accounts.default.token: "),
        (f'[database]\ndsn = "{SECRET}', "is not TOML"),
    ],
)
async def test_a_bad_file(text: str, key: str, tmp_path: Path) -> None:
    """78; the line says which key and what is wrong with it, not what its value was."""
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    ended = await said("run", "--config", str(path))
    assert ended.exit_code == 78
    assert key in ended.stderr
    assert ended.stderr.startswith("caspen-sync: ")


async def test_a_bad_ca_file(tmp_path: Path) -> None:
    """One line that names the key, the file and the mend, even when the database is away as well."""
    ended = await said("run", env=unreachable(API__CA_FILE=str(tmp_path / "ca.pem")))
    assert ended.exit_code == 78
    assert ended.stderr == (
        f"caspen-sync: api.ca_file: {tmp_path}/ca.pem: cannot be read: No such file or directory; "
        "name a PEM file with the certificates to trust\n"
    )


async def test_a_bad_variable() -> None:
    """The same for the environment."""
    ended = await said("run", "--once", env=unreachable(RETRY__MAX_ATTEMPT="3"))
    assert ended.exit_code == 78
    assert "retry.max_attempt: no such key; did you mean max_attempts?" in ended.stderr


async def test_a_flag_that_is_no_dsn() -> None:
    """78, and the flag's value, which may hold a password, is not repeated."""
    ended = await said("migrate", "--dsn", f"postgres//u:{SECRET}@h/d")
    assert ended.exit_code == 78
    assert "database.dsn" in ended.stderr


@pytest.mark.parametrize("args", [["run"], ["run", "--once"]])
async def test_no_token(args: list[str], tmp_path: Path) -> None:
    """78 before anything else is tried; the message says how to give one. A missing token file is named."""
    env = unreachable()
    del env["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN"]
    ended = await said(*args, env=env)
    assert ended.exit_code == 78
    assert "accounts.default" in ended.stderr
    assert "CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN" in ended.stderr
    ended = await said(*args, env=env | {"CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN_FILE": str(tmp_path / "gone")})
    assert ended.exit_code == 78
    assert str(tmp_path / "gone") in ended.stderr


# -- the database ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["run"], ["run", "--once"], ["migrate"]])
async def test_a_database_that_is_not_there(args: list[str]) -> None:
    """69, with a hint at what to look at, and without the password."""
    ended = await said(*args, env=unreachable())
    assert ended.exit_code == 69
    assert "cannot be reached" in ended.stderr
    assert "database.dsn" in ended.stderr


@pytest.mark.parametrize("args", [["run"], ["run", "--once"]])
async def test_a_database_without_the_schema(args: list[str], empty_database: str) -> None:
    """78: the message names the command that mends it, and nothing was made in the database."""
    ended = await said(*args, env=environment(empty_database, NOWHERE))
    assert ended.exit_code == 78
    assert "run caspen-sync migrate" in ended.stderr
    conn = await asyncpg.connect(empty_database)
    assert await conn.fetchval("SELECT to_regnamespace('caspen_sync')") is None
    await conn.close()


@pytest.mark.parametrize("args", [["run"], ["run", "--once"]])
async def test_a_schema_that_lacks_a_migration(args: list[str], database: Database) -> None:
    """78: an update of the program was installed, and not yet its schema."""
    newest = known_migrations()[-1].number
    await database.value("DELETE FROM caspen_sync.migration WHERE number = $1", newest)
    ended = await said(*args, env=environment(database.dsn, NOWHERE))
    assert ended.exit_code == 78
    assert f"lacks migration {newest}; run caspen-sync migrate" in ended.stderr


@pytest.mark.parametrize("args", [["run"], ["run", "--once"], ["migrate"]])
async def test_a_schema_that_is_too_new(args: list[str], database: Database) -> None:
    """78: it is the program that is to be updated, and the schema is left alone."""
    await database.value("INSERT INTO caspen_sync.migration (number, name) VALUES (9999, 'from_the_future')")
    ended = await said(*args, env=environment(database.dsn, NOWHERE, DIRECT))
    assert ended.exit_code == 78
    assert "9999" in ended.stderr
    assert "install a newer caspen-sync" in ended.stderr


@pytest.mark.parametrize("args", [["run", "--once"], ["migrate"]])
async def test_what_postgres_refuses(args: list[str], server_dsn: str) -> None:
    """A database that is not there, a role that may not log in: 78, in Postgres's words, which name them."""
    ended = await said(*args, env=environment(with_database(server_dsn, "no_such_clinic"), NOWHERE, DIRECT))
    assert ended.exit_code == 78
    assert "no_such_clinic" in ended.stderr

    parts = urlsplit(server_dsn)
    stranger = urlunsplit(parts._replace(netloc=f"no_such_role:{SECRET}@{parts.netloc.rpartition('@')[2]}"))
    ended = await said(*args, env=environment(stranger, NOWHERE, DIRECT))
    assert ended.exit_code == 78
    assert "no_such_role" in ended.stderr


async def test_migrate(empty_database: str) -> None:
    """Applies what is missing, says what; the second time there is nothing to do. --dsn beats the environment."""
    args = ["migrate", "--dsn", empty_database]
    names = [f"applied {migration.number:04} {migration.name}" for migration in known_migrations()]
    first = await said(*args, env=unreachable())
    assert (first.exit_code, first.stdout.splitlines(), first.stderr) == (0, names, "")
    second = await said(*args, "--roles", env=unreachable())
    assert second.exit_code == 0
    assert second.stdout.startswith("the schema is up to date\n")
    assert "caspen_sync_worker" in second.stdout


async def test_migrate_from_two_hosts_at_once(empty_database: str) -> None:
    """Both end well; each migration is applied by one of them."""
    ends = await asyncio.gather(*(said("migrate", env=environment(empty_database, NOWHERE, DIRECT)) for _ in range(2)))
    assert [ended.exit_code for ended in ends] == [0, 0]
    applied = [line for ended in ends for line in ended.stdout.splitlines() if line.startswith("applied")]
    assert len(applied) == len(known_migrations())


# -- run -------------------------------------------------------------------------------------------------------------


async def test_nothing_to_do(database: Database) -> None:
    """The cron job on an idle system: 0, and not a word for cron to mail."""
    ended = await said("run", "--once", env=environment(database.dsn, NOWHERE))
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "", "")


async def test_once(database: Database) -> None:
    """What is pending is sent, and that is the end of it: 0, and not a word for cron to mail."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        await database.write("app_1", {"note": SECRET})
        ended = await said("run", "--once", env=environment(database.dsn, sandbox.base_url))
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "", "")
    assert await database.states() == {"synced": 1}


async def test_once_with_a_log(database: Database) -> None:
    """Asked for more, it logs a line of JSON for each event, on stderr, without token or body."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        await database.write("app_1", {"note": SECRET})
        ended = await said("run", "--once", "--log-level", "debug", env=environment(database.dsn, sandbox.base_url))
    assert (ended.exit_code, ended.stdout) == (0, "")
    events = [json.loads(line)["event"] for line in ended.stderr.splitlines()]
    assert (events[0], events[-1]) == ("worker_started", "worker_stopped")
    assert "request" in events


async def test_once_with_a_bad_change(database: Database) -> None:
    """65: everything is sent, and a person should look at what was parked."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        await database.write("app_1", {"room_id": SECRET})
        await database.write("app_2", {"note": None})
        ended = await said("run", "--once", "--log-level", "error", env=environment(database.dsn, sandbox.base_url))
    assert ended.exit_code == 65
    assert ended.stderr == "caspen-sync: everything due is sent, but 1 change was parked; see caspen-sync parked list\n"


async def test_once_with_a_revoked_token(database: Database) -> None:
    """77, and the account's name."""
    async with Sandbox(SandboxSettings(tokens=("another",))) as sandbox:
        await database.write("app_1", {"note": None})
        ended = await said("run", "--once", "--log-level", "error", env=environment(database.dsn, sandbox.base_url))
    assert ended.exit_code == 77
    assert "account default is paused" in ended.stderr


async def test_once_with_an_api_that_is_not_there(database: Database) -> None:
    """69, and the address that was tried."""
    await database.write("app_1", {"note": None})
    ended = await said("run", "--once", "--log-level", "error", env=environment(database.dsn, NOWHERE))
    assert ended.exit_code == 69
    assert NOWHERE in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_service_stops_when_told_to(database: Database, number: signal.Signals) -> None:
    """It is in the list of workers while it runs, ends with 0 on either signal, and takes itself off the list."""
    process = await start("run", env=environment(database.dsn, NOWHERE))
    output = asyncio.create_task(process.communicate())
    await eventually(lambda: database.value("SELECT count(*) FROM caspen_sync.worker"), what="a worker in the list")
    if number == signal.SIGTERM:
        assert await stop(process) == 0
    else:
        process.send_signal(number)
    out, err = await asyncio.wait_for(output, 30)
    assert process.returncode == 0
    assert out == b""
    assert b"Traceback" not in err
    assert await database.value("SELECT count(*) FROM caspen_sync.worker") == 0
