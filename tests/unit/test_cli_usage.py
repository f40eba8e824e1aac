"""What the command line takes and refuses, without a database."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from worker.cli import main
from worker.cli.arguments import parser


@pytest.mark.parametrize(
    "args",
    [
        ["parked"],
        ["parked", "walk"],
        ["parked", "show"],
        ["parked", "show", "0"],
        ["parked", "show", "-1"],
        ["parked", "show", "9" * 20],
        ["parked", "show", "1", "2"],
        ["parked", "edit"],
        ["parked", "edit", "1", "--changes", '{"note": "a patient"}'],
        ["parked", "retry", "one"],
        ["parked", "discard", "--error", ""],
        ["parked", "retry", "--account", ""],
        ["parked", "retry", "--appointment", ""],
        ["parked", "list", "--appointment", "-x"],
        ["parked", "list", "--since", "yesterday"],
        ["parked", "list", "--since", ""],
        ["parked", "list", "--since", "-1d"],
        ["parked", "list", "--since", "999999d"],
        ["parked", "list", "--since", "9999999d"],
        ["parked", "list", "--since", "0001-01-01"],
        ["parked", "list", "--limit", "0"],
        ["parked", "list", "1"],
        ["attempts"],
        ["attempts", "-x"],
        ["attempts", "app_1", "--limit", "many"],
        ["pause"],
        ["resume", "default", "north"],
        ["prune", "--older-than", "0"],
        ["prune", "--older-than", "nan"],
        ["prune", "--older-than", "40000"],
        ["prune", "--older-than", "soon"],
        ["status", "--watch", "0"],
        ["status", "--watch", "soon"],
    ],
)
def test_bad_usage(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """64 and the reason in the last line, without what was given for an option that there is not. An empty variable in
    a script must not mean every change."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (64, "")
    assert said.err.splitlines()[-1].startswith("caspen-sync")
    assert "a patient" not in said.err


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("3d", timedelta(days=3)),
        ("30s", timedelta(seconds=30)),
    ],
)
def test_since_so_long_ago(text: str, ago: timedelta) -> None:
    """A number and a unit count back from now."""
    since = parser([]).parse_args(["parked", "list", "--since", text]).since
    assert abs(datetime.now(UTC) - ago - since) < timedelta(seconds=10)


def test_since_a_time() -> None:
    """A time with an offset is that instant; one without is this computer's."""
    parse = parser([]).parse_args
    assert parse(["parked", "list", "--since", "2026-11-24T08:30+02:00"]).since == datetime(
        2026, 11, 24, 6, 30, tzinfo=UTC
    )
    local = datetime(2026, 11, 24).astimezone()
    assert parse(["parked", "list", "--since", "2026-11-24"]).since == local


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([""], "FILE: is empty, and names no file"),
        (["--query-file", ""], "--query-file: is empty, and names no file"),
        (["--rejects", ""], "--rejects: is empty, and names no file"),
        (["--rejects", "."], "--rejects: '.' is no file"),
        (["--rejects", ".."], "--rejects: '..' is no file"),
        (["--rejects", "/"], "--rejects: '/' is no file"),
        (["--rejects", "/usr/"], "--rejects: '/usr/' is no file"),
        (["--rejects", "/dev/full"], "--rejects: '/dev/full' is no file"),
        (["--rejects", "/dev/none-yet"], "is no file"),
        (["--rejects", "/dev/stdout"], "is no file"),
        (["--rejects", "/dev/fd/1"], "is no file"),
        (["--problems", "-1"], "'-1' is not a whole number, 0 or above"),
        (["--skip-invalid", "list"], "backfill list"),
        (["--dry-run", "status", "year"], "comes directly after the command, backfill status"),
    ],
)
def test_bad_usage_of_backfill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no file, and what stands at the wrong place, is told before anything is read."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["backfill", *args])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (64, "")
    assert words in said.err.splitlines()[-1]


def test_files_of_backfill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is called as an action is taken where no action stands; rejects go where there is none yet, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").touch()
    command = ["backfill", "--problems", "0", "list", "--rejects"]
    for place in ("list", "new", "folder/new", "/dev/shm/new", str(tmp_path / ("x" * 300))):
        args = parser(command).parse_args([*command, place])
        assert (args.file, args.problems, args.rejects) == ("list", 0, Path(place))


def test_ids_that_begin_with_a_dash() -> None:
    """They are given after --, or with =."""
    parse = parser([]).parse_args
    assert parse(["attempts", "--", "-x"]).appointment == "-x"
    assert parse(["parked", "list", "--appointment=-x"]).appointment == "-x"


def test_every_command_leads_somewhere() -> None:
    """What runs a command is named by a string, which nothing else would check."""
    handlers = set(_handlers(parser(["sandbox"])))
    assert len(handlers) > 8
    for handler in handlers:
        module, _, function = handler.partition(":")
        assert callable(getattr(importlib.import_module(f"worker.cli.{module}"), function))


def _handlers(command: argparse.ArgumentParser) -> Iterator[str]:
    for action in command._actions:
        if isinstance(action.choices, Mapping):
            for inner in action.choices.values():
                yield from _handlers(inner)
    if handler := command.get_default("handler"):
        yield handler
