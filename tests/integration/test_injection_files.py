"""What a backfill's file says, how it is called, and what stands on a command line, made to hurt: it is loaded as it
was written or left apart, and shows as text in a pipe and in a terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import canary
from tests.support.database import Database
from tests.support.hostile import TEXTS, assert_steers_nothing, catalogue, counts, tables_with
from tests.support.parking import offline, parked
from tests.support.processes import TOKEN, Ended, command, environment
from tests.support.terminal import at_a_terminal
from worker.sandbox import Sandbox, SandboxSettings

# A name must be printable and begin with no -; whatever else it may hold is here.
NAME = "hacked'; DROP TABLE caspen_sync.outbox; -- [red]{0} %s $(hacked) <script>../../x"
PRINTABLE = [text for text in TEXTS.values() if text.isprintable()]


def lines() -> Sequence[tuple[str, dict[str, object]]]:
    """For each text a change whose id and note hold it, and one whose key does."""
    canary.sing(*(f"ZNOTEZ {text}"[:255] for text in TEXTS.values()))
    return [
        *((f"app_ZIDZ {text}", {"note": f"ZNOTEZ {text}"[:255]}) for text in TEXTS.values()),
        *((f"app_{number}", {text: "ZVALUEZ hacked"}) for number, text in enumerate(TEXTS.values())),
    ]


def names_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def text_of(path: str) -> str:
    return Path(path).read_text("utf-8")


@pytest.mark.long
async def test_json_lines_in_a_terminal(database: Database, tmp_path: Path) -> None:
    """Under a hostile name, with a bar: what may be loaded arrives at the API as it was written; the rest is left apart
    in a file beside the others, whose name leads nowhere else; nothing of it steers the terminal."""
    before = await catalogue(database)
    file = tmp_path / "hacked.jsonl"
    file.write_text("".join(json.dumps({"appointment_id": i, "changes": c}) + "\n" for i, c in lines()), "utf-8")
    here = os.fspath(tmp_path / "hacked.rejects.jsonl")
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = environment(database.dsn, sandbox.base_url) | {"TERM": "xterm-256color"}
        args = ("backfill", str(file), "--name", NAME, "--skip-invalid", "--rejects", here)
        async with at_a_terminal(*args, env=env, columns=120) as terminal:
            assert await terminal.ended() == 65
            screen = terminal.screen
        notes = {id_: appointment["note"] for id_, appointment in sandbox.appointments.items()}
    assert notes == {f"app_ZIDZ {text}": f"ZNOTEZ {text}"[:255] for text in PRINTABLE}
    assert await catalogue(database) == before
    assert await database.states() == {"synced": len(PRINTABLE)}
    assert await tables_with(database, "ZVALUEZ") == set()
    assert await tables_with(database, "[red]{0} %s $(hacked)") == {"backfill", "backfill_line", "outbox"}
    assert names_in(tmp_path) == ["hacked.jsonl", "hacked.rejects.jsonl"]
    assert text_of(here).count("ZVALUEZ") == len(TEXTS)
    for sent in ("\x1b]0;", "\x1b[2J", "\x9b", "\u202e", "\u2066", "\u2028", "\x85"):
        assert sent not in screen, repr(sent)
    assert "[red]{0} %s $(hacked) <script>" in "".join(terminal.picture)
    offered = next(line for line in terminal.picture if "give them back: " in line)
    assert shlex.split(offered.partition("give them back: ")[2])[:5] == [
        "caspen-sync",
        "backfill",
        here,
        "--name",
        NAME,
    ]

    for more in (["list"], ["status", NAME]):
        ended = await command("backfill", *more, env=offline(database))
        assert (ended.exit_code, ended.stderr) == (0, "")
        assert NAME in ended.stdout
        assert_steers_nothing(ended.stdout)


@pytest.mark.long
async def test_cells_and_columns(database: Database, tmp_path: Path) -> None:
    """Of CSV, in a pipe: cells that a spreadsheet would run are texts like any other; columns that nobody has are
    named as text, and nothing is loaded for them."""
    before = await catalogue(database)
    cells = io.StringIO()
    writer = csv.writer(cells)
    writer.writerow(["appointment_id", "note"])
    writer.writerows([f"app_{number}", f"ZNOTEZ {text}"[:255]] for number, text in enumerate(TEXTS.values()))
    file = tmp_path / "hacked.csv"
    file.write_text(cells.getvalue(), "utf-8", newline="")
    ended = await backfill(database, str(file), "--no-wait", cwd=tmp_path)
    assert (ended.exit_code, ended.stderr.splitlines()[1:]) == (0, [])
    found = await database.rows("SELECT changes->>'note' AS note FROM caspen_sync.outbox ORDER BY id")
    assert sorted(row["note"] for row in found) == sorted(f"ZNOTEZ {text}"[:255] for text in TEXTS.values())

    cells = io.StringIO()
    csv.writer(cells).writerows([["appointment_id", *TEXTS.values()], ["app_1", *("ZVALUEZ hacked" for _ in TEXTS)]])
    file.write_text(cells.getvalue(), "utf-8", newline="")
    held = await counts(database)
    ended = await backfill(database, str(file), "--no-wait", "--name", "other", cwd=tmp_path)
    assert ended.exit_code in (65, 66)
    assert_steers_nothing(ended.stderr)
    assert "ZVALUEZ" not in ended.stderr
    assert {line.partition(": ")[0] for line in ended.stderr.splitlines()} == {"caspen-sync"}
    assert await counts(database) == held
    assert await catalogue(database) == before


async def backfill(database: Database, *args: str, cwd: Path) -> Ended:
    return await command("backfill", *args, env=offline(database), cwd=str(cwd))


@pytest.mark.long
@pytest.mark.parametrize(
    "args",
    [
        ["pause", "--", "{}"],
        *(
            pytest.param(args, marks=pytest.mark.long)
            for args in (
                ["parked", "list", "--account={}", "--error={}"],
                ["parked", "list", "--appointment={}"],
                ["parked", "discard", "--account={}", "--yes"],
                ["parked", "retry", "--error={}", "--yes"],
                ["parked", "show", "1", "--account={}"],
                ["attempts", "--", "{}"],
                ["resume", "--", "{}"],
                ["backfill", "status", "--", "{}"],
                ["backfill", "cancel", "--yes", "--", "{}"],
                ["backfill", "{}"],
                ["backfill", "--name={}", "-"],
                ["backfill", "--query={}"],
                ["status", "--config={}"],
                ["unit", "cron", "--config={}"],
                ["run", "--listen={}"],
            )
        ),
    ],
    ids=lambda args: "_".join(part.strip("-={}") for part in args if part.strip("-={}")),
)
async def test_on_a_command_line(database: Database, args: list[str], tmp_path: Path) -> None:
    """It is a value like any other: it finds nothing, changes nothing, and is told in one line of text."""
    await parked(database, "app_1", {"note": "a long enough note"})
    held, before = await counts(database), await catalogue(database)
    # One after the other they would take minutes; what ends a statement or a line, and what steers a terminal, is here.
    for name in ("sql true", "log lines", "terminal"):
        given = [arg.format(TEXTS[name]) if "{}" in arg else arg for arg in args]
        ended = await command(*given, env=offline(database), cwd=str(tmp_path), given=b"")
        assert ended.exit_code in (0, 64, 65, 66, 78), ended.stderr
        assert_steers_nothing(ended.stdout + ended.stderr)
        told = [line for line in ended.stderr.splitlines() if line.startswith("caspen-sync")]
        assert len(told) == (1 if ended.exit_code else 0), ended.stderr
    assert await counts(database) == held
    assert await catalogue(database) == before
    assert names_in(tmp_path) == []
