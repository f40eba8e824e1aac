"""`caspen-sync backfill FILE` as its user meets it: what it does, what it says, and how it ends."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import canary
from tests.support.database import Database
from tests.support.processes import TOKEN, Ended, command, environment, start
from tests.support.waiting import eventually
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings

OPEN = SandboxSettings(tokens=(TOKEN,), limit=1000)
NOBODY = "http://127.0.0.1:9/v1"
LINES = [("app_1", {"note": "one"}), ("app_2", {"room_id": 2}), ("app_1", {"note": "two", "confirmed": True})]


def jsonl(lines: Sequence[tuple[str, dict[str, Any]]]) -> str:
    canary.sing(*(changes for _, changes in lines))
    return "".join(json.dumps({"appointment_id": one, "changes": changes}) + "\n" for one, changes in lines)


def written(path: Path, lines: Sequence[tuple[str, dict[str, Any]]] = LINES) -> str:
    path.write_text(jsonl(lines), encoding="utf-8")
    return str(path)


def keep(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)


def names_in(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


async def backfill(database: Database, *args: str, base_url: str = NOBODY, **options: Any) -> Ended:
    return await command("backfill", *args, env=environment(database.dsn, base_url), **options)


async def test_from_the_file_to_the_api(database: Database, tmp_path: Path) -> None:
    """Loaded, worked off, and each appointment as the file says last; the second time there is nothing to do."""
    file = written(tmp_path / "year.jsonl")
    async with Sandbox(OPEN) as sandbox:
        ended = await backfill(database, file, base_url=sandbox.base_url)
        assert (ended.exit_code, await database.states()) == (0, {"synced": 3})
        assert ended.stdout.splitlines()[0].startswith(
            "year.jsonl: 3 lines, 2 appointments, 2 requests: done in less than a second"
        )
        assert ended.stdout.splitlines()[-1] == "3 of 3 changes of year.jsonl are synced"
        assert sandbox.appointments["app_1"]["note"] == "two"
        requests = len(sandbox.log)
        again = await backfill(database, file, base_url=sandbox.base_url)
        assert (again.exit_code, len(sandbox.log)) == (0, requests)
    assert again.stdout.splitlines() == [
        "year.jsonl: 3 lines, all of which are loaded already, 2 appointments",
        "3 of 3 changes of year.jsonl are synced",
    ]


@pytest.mark.parametrize("source", ["gz", "csv", "stdin", "query"])
async def test_every_source(database: Database, tmp_path: Path, source: str) -> None:
    """The same changes, however they come."""
    given = None
    args = [str(tmp_path / f"year.jsonl.{source}")]
    if source == "gz":
        keep(args[0], gzip.compress(jsonl(LINES).encode()))
    elif source == "csv":
        args = [str(tmp_path / "year.csv")]
        keep(args[0], b"appointment_id,note,room_id,confirmed\napp_1,one,,\napp_2,,2,\napp_1,two,,true\n")
    elif source == "stdin":
        args, given = ["-"], jsonl(LINES).encode()
    else:
        await database.pool.execute("CREATE TABLE appts (n serial, id text, changes jsonb)")
        await database.pool.executemany(
            "INSERT INTO appts (id, changes) VALUES ($1, $2)", [(one, json.dumps(changes)) for one, changes in LINES]
        )
        args = ["--query", "SELECT id AS appointment_id, changes FROM appts ORDER BY n"]
    ended = await backfill(database, *args, "--no-wait", "--name", "year", given=given)
    assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (
        0,
        "year: left to the service; caspen-sync backfill status year",
    )
    found = await database.rows("SELECT appointment_id, changes, source, lane FROM caspen_sync.outbox ORDER BY id")
    assert [(one["appointment_id"], json.loads(one["changes"])) for one in found] == sorted(
        LINES, key=lambda line: line[0]
    )
    assert {(one["source"], one["lane"]) for one in found} == {("year", "backfill")}


async def test_one_bad_line_keeps_all_back(database: Database, tmp_path: Path) -> None:
    """It is named with all that is wrong with it, and nothing is left behind."""
    file = written(tmp_path / "year.jsonl", [*LINES, ("app_3", {"note": 7, "room": 1})])
    ended = await backfill(database, file)
    assert (ended.exit_code, ended.stdout) == (65, "")
    assert "line 4: note: must be a string" in ended.stderr
    assert "line 4: room: is not a field of the API" in ended.stderr
    assert "1 of 4 lines is no valid change, so nothing is loaded" in ended.stderr
    assert await database.states() == {}
    assert (await backfill(database, "list")).stdout == "no backfill was loaded; caspen-sync backfill FILE\n"


async def test_bad_lines_are_left_apart_mended_and_given_back(database: Database, tmp_path: Path) -> None:
    """The others are loaded; what was left apart is its owner's only, and adds what was missing under the same name."""
    file = written(tmp_path / "year.jsonl", [*LINES, ("app_3", {"room_id": "seven"})])
    args = ("--skip-invalid", "--no-wait", "--name", "year")
    ended = await backfill(database, file, *args, cwd=str(tmp_path))
    assert (ended.exit_code, await database.states()) == (65, {"pending": 3})
    rejects = tmp_path / "year.rejects.jsonl"
    assert f"left apart in {rejects.name}" in ended.stderr
    assert "give them back: caspen-sync backfill year.rejects.jsonl --name year\n" in ended.stderr
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    again = await backfill(database, file, *args, cwd=str(tmp_path))
    assert (again.exit_code, await database.states()) == (65, {"pending": 3})
    assert names_in(tmp_path) == {"year.jsonl", rejects.name}
    keep(str(rejects), rejects.read_bytes().replace(b'"seven"', b"7"))
    mended = await backfill(database, str(rejects), "--no-wait", "--name", "year")
    assert (mended.exit_code, await database.states()) == (0, {"pending": 4})


@pytest.mark.long
async def test_rejects_are_given_back_as_they_were_read(database: Database, tmp_path: Path) -> None:
    """A table with tabs stays one, and what the source was read by is in the command that is told."""
    table = tmp_path / "a.tsv"
    table.write_text("appointment_id\tnote\troom_id\napp_1\tnone\tseven\n", encoding="utf-8")
    args = ("--no-wait", "--null", "none", "--encoding", "cp1252", "--as-of", "2026-11-01")
    ended = await backfill(database, str(table), "--skip-invalid", *args, cwd=str(tmp_path))
    _, _, told = ended.stderr.partition("; mend them there, and give them back: caspen-sync ")
    expected = "backfill a.tsv.rejects.tsv --name a.tsv --encoding cp1252 --null none --as-of 2026-11-01T00:00:00"
    assert (ended.exit_code, told.startswith(expected)) == (65, True)
    rejects = tmp_path / "a.tsv.rejects.tsv"
    keep(str(rejects), rejects.read_bytes().replace(b"seven", b"7"))
    mended = await backfill(database, *told.splitlines()[0].split()[1:], "--no-wait", cwd=str(tmp_path))
    assert (mended.exit_code, await database.states()) == (0, {"pending": 1})
    assert json.loads(await database.value("SELECT changes FROM caspen_sync.outbox")) == {"note": None, "room_id": 7}


async def test_a_dry_run_writes_nothing(database: Database, tmp_path: Path) -> None:
    """Neither a line nor an entry; 65 when a line is invalid."""
    file = written(tmp_path / "year.jsonl")
    ended = await backfill(database, file, "--dry-run")
    assert ended.exit_code == 0
    assert ended.stdout.startswith(
        "year.jsonl: 3 lines would be loaded and take 2 requests: done in less than a second"
    )
    assert (await backfill(database, written(tmp_path / "b.jsonl", [("a", {"x": 1})]), "--dry-run")).exit_code == 65
    for table in ("outbox", "backfill", "backfill_line"):
        assert await database.value(f"SELECT count(*) FROM caspen_sync.{table}") == 0


@pytest.mark.long
async def test_what_the_api_refuses_is_told(database: Database, tmp_path: Path) -> None:
    """65, and the others are synced."""
    file = written(tmp_path / "year.jsonl", [*LINES, ("app_3", {"room_id": NO_SUCH_ROOM})])
    async with Sandbox(OPEN) as sandbox:
        ended = await backfill(database, file, base_url=sandbox.base_url)
    assert (ended.exit_code, await database.states()) == (65, {"synced": 3, "parked": 1})
    assert "1 change of year.jsonl is parked; see caspen-sync parked list" in ended.stderr


async def test_what_is_left_out_is_told(database: Database, tmp_path: Path) -> None:
    """With --as-of; and it can be listed."""
    await database.write("app_1", {"note": "today's"})
    file = written(tmp_path / "year.jsonl")
    ended = await backfill(database, file, "--as-of", "1h", "--no-wait")
    assert "2 lines without some fields, of which 1 with nothing to send" in ended.stdout
    listed = await backfill(database, "status", "year.jsonl", "--left-out")
    assert [line.split(", ")[0] for line in listed.stdout.splitlines()[:2]] == ["line 1", "line 3"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_end_is_asked_for_while_it_is_read(database: Database, tmp_path: Path, number: signal.Signals) -> None:
    """Though it waits for standard input: nothing is loaded, and it says so."""
    process = await start("backfill", "-", "--name", "year", env=environment(database.dsn, NOBODY), piped=True)
    assert process.stdin
    lines = [(f"app_{line}", {"room_id": line}) for line in range(12_000)]
    process.stdin.write(jsonl(lines).encode())
    await eventually(lambda: database.value("SELECT count(*) FROM caspen_sync.backfill_line"), what="staged lines")
    process.send_signal(number)
    # Standard input stays open: the process ends all the same.
    code = await asyncio.wait_for(process.wait(), 20)
    _, said = await process.communicate()
    assert code == 75
    assert b"year: interrupted before anything of it was loaded; run the same command again to go on" in said
    assert await database.states() == {}
    assert await database.value("SELECT count(*) FROM caspen_sync.backfill_line") == 0
    del tmp_path


@pytest.mark.long
async def test_an_end_is_asked_for_while_it_is_loaded(database: Database, tmp_path: Path) -> None:
    """What is loaded stays, and the same command loads the rest."""
    file = written(tmp_path / "year.jsonl", [(f"app_{line:03}", {"room_id": line}) for line in range(200)])
    async with database.pool.acquire() as writer, writer.transaction():
        await database.write("app_100", {"note": "held"}, conn=writer)
        process = await start("backfill", file, "--no-wait", env=environment(database.dsn, NOBODY))
        await eventually(
            lambda: database.value("SELECT loaded_nth = 100 FROM caspen_sync.backfill"), what="all before the held one"
        )
        process.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 75
    assert b"interrupted; what is loaded will be sent, and the same command again loads the other 100 lines" in said
    looked = await backfill(database, file, "--dry-run")
    assert "of 200 lines 100 are loaded already, the other 100 would be added and take 100 requests" in looked.stdout
    ended = await backfill(database, file, "--no-wait")
    assert ended.exit_code == 0
    assert await database.value("SELECT count(DISTINCT changes) FROM caspen_sync.outbox WHERE lane = 'backfill'") == 200


@pytest.mark.long
async def test_the_later_of_two_takes_over(database: Database, tmp_path: Path) -> None:
    """The earlier one says so and ends with 75."""
    earlier = await start("backfill", "-", "--name", "year", env=environment(database.dsn, NOBODY), piped=True)
    assert earlier.stdin
    half = jsonl([(f"app_{line}", {"room_id": line}) for line in range(6000)]).encode()
    earlier.stdin.write(half)
    await eventually(lambda: database.value("SELECT count(*) FROM caspen_sync.backfill_line"), what="staged lines")
    later = await backfill(database, written(tmp_path / "year.jsonl"), "--name", "year", "--no-wait")
    assert (later.exit_code, await database.states()) == (0, {"pending": 3})
    _, said = await earlier.communicate(half)
    assert earlier.returncode == 75
    assert b"backfill year: another process has taken over, or somebody has cancelled it" in said
    assert await database.states() == {"pending": 3}


@pytest.mark.long
async def test_what_an_earlier_run_accepted_is_told(database: Database, tmp_path: Path) -> None:
    """It was killed before all was loaded; the next run loads the rest, though its own file has no more of it."""
    file = written(tmp_path / "year.jsonl")
    assert (await backfill(database, file, "--no-wait")).exit_code == 0
    await database.pool.execute(
        "DELETE FROM caspen_sync.outbox; DELETE FROM caspen_sync.arrival;"
        "UPDATE caspen_sync.backfill SET loaded_nth = 1, loaded = 1, loaded_at = NULL"
    )
    one_line = written(tmp_path / "less.jsonl", LINES[:1])
    dry = await backfill(database, one_line, "--name", "year.jsonl", "--dry-run")
    ended = await backfill(database, one_line, "--name", "year.jsonl", "--no-wait")
    assert "2 lines of an earlier run are accepted and not loaded yet: they would be loaded too" in dry.stdout
    assert "year.jsonl: 2 lines of an earlier run are loaded besides" in ended.stdout.splitlines()
    assert "2 of 2 lines loaded" in ended.stderr


async def test_a_dry_run_that_cannot_be_written(database: Database, tmp_path: Path) -> None:
    """It is all there is to get, so it has failed."""
    file = written(tmp_path / "year.jsonl")
    process = await asyncio.create_subprocess_shell(
        f'exec "{sys.executable}" -m worker backfill "{file}" --dry-run > /dev/full',
        env=environment(database.dsn, NOBODY),
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (69, "caspen-sync: No space left on device\n")


async def test_an_empty_file(database: Database, tmp_path: Path) -> None:
    """Is no error, and no backfill."""
    file = written(tmp_path / "year.jsonl", [])
    ended = await backfill(database, file)
    assert (ended.exit_code, ended.stdout) == (0, "year.jsonl: there are no lines to load\n")


@pytest.mark.long
async def test_a_name_that_was_cancelled(database: Database, tmp_path: Path) -> None:
    """Is bad usage, with the way out of it."""
    file = written(tmp_path / "year.jsonl")
    await backfill(database, file, "--no-wait")
    assert (await backfill(database, "cancel", "year.jsonl", "--yes")).exit_code == 0
    ended = await backfill(database, file, "--no-wait")
    assert (ended.exit_code, await database.states()) == (64, {"discarded": 3})
    assert "to load it again, give it another --name" in ended.stderr


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 64, "give one of FILE (- for standard input), --query and --query-file"),
        (("{file}", "--query", "SELECT 1"), 64, "give one of FILE"),
        (("{file}", "--rejects", "r"), 64, "--rejects goes with --skip-invalid"),
        (("{file}", "--json"), 64, "--json goes with --dry-run"),
        (("{file}", "--as-of", "2999-01-01"), 64, "--as-of is in the future"),
        (("{file}", "--name", "a\nb"), 64, "--name is at most 200 printable characters"),
        (("{file}", "--account", "north"), 64, "is not an account of the configuration"),
        (("nowhere.jsonl",), 66, "nowhere.jsonl: cannot be read: No such file or directory"),
        (("status", "nobody"), 64, "none is called nobody"),
    ],
)
async def test_what_can_be_mended(
    database: Database, tmp_path: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    """A line that says what is wrong, the exit code of its kind, and nothing done."""
    file = written(tmp_path / "year.jsonl")
    ended = await backfill(database, *(one.format(file=file) for one in args))
    assert (ended.exit_code, ended.stdout) == (code, "")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert await database.states() == {}


async def test_a_token_is_asked_for_before_anything_is_loaded(database: Database, tmp_path: Path) -> None:
    """Whoever is to wait and cannot hears of it first; who leaves the work to the service needs none."""
    file = written(tmp_path / "year.jsonl")
    env = environment(database.dsn, NOBODY, {"ACCOUNTS__DEFAULT__TOKEN_FILE": str(tmp_path / "none")})
    del env["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN"]
    ended = await command("backfill", file, env=env)
    assert (ended.exit_code, await database.states()) == (78, {})
    assert (await command("backfill", file, "--no-wait", env=env)).exit_code == 0


async def test_without_the_schema(empty_database: str, tmp_path: Path) -> None:
    """78, and how to make it."""
    ended = await command("backfill", written(tmp_path / "y.jsonl"), env=environment(empty_database, NOBODY))
    assert ended.exit_code == 78
    assert "caspen-sync migrate" in ended.stderr


@pytest.mark.long
@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_a_reader_that_has_gone_costs_the_words_only(database: Database, tmp_path: Path, unbuffered: str) -> None:
    """Whoever closes stdout early gets the work done all the same, and the exit code that says how it went."""
    file = written(tmp_path / "year.jsonl", [*LINES, ("app_3", {"room_id": NO_SUCH_ROOM})])
    async with Sandbox(OPEN) as sandbox:
        env = environment(database.dsn, sandbox.base_url) | {"PYTHONUNBUFFERED": unbuffered}
        reader, writer = os.pipe()
        os.close(reader)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker", "backfill", file), env=env, stdout=writer, stderr=asyncio.subprocess.PIPE
        )
        os.close(writer)
        _, said = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, await database.states()) == (65, {"synced": 3, "parked": 1})
    canary.watch(said.decode(), where="stderr")


async def test_a_dry_run_is_interrupted(database: Database) -> None:
    """75, and a word."""
    process = await start("backfill", "-", "--dry-run", env=environment(database.dsn, NOBODY), piped=True)
    await eventually(
        lambda: database.value(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE application_name = 'caspen-sync' AND datname = current_database()"
        ),
        what="that it has begun",
    )
    process.send_signal(signal.SIGINT)
    code = await asyncio.wait_for(process.wait(), 20)
    _, said = await process.communicate()
    assert (code, b"stdin: interrupted; nothing was written" in said) == (75, True)
