"""What a unit is told of the installation: what starts it, what it is made of, and who may enter there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import worker
from worker import unit
from worker.config import Settings, find_config
from worker.errors import ConfigError
from worker.unit.installation import closed_to, to_be_shown


def test_the_command_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script of our name is started itself, from anywhere; what a relative path and a link mean is kept, unless the
    link leads out of a place that the service does not see."""
    real = tmp_path / "release-5" / "caspen-sync"
    real.parent.mkdir()
    real.write_text("#!/bin/sh\n", encoding="utf-8")
    real.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    found = unit.this_one("release-5/caspen-sync")
    assert (found.command, found.folder) == ([str(real)], None)
    (tmp_path / "current").symlink_to("release-5")
    monkeypatch.setattr("worker.unit.installation.hidden", lambda _path: False)
    assert unit.this_one("current/caspen-sync").command == [str(tmp_path / "current" / "caspen-sync")]
    monkeypatch.undo()
    assert unit.this_one(str(tmp_path / "current" / "caspen-sync")).command == [str(real.resolve())]


def test_anything_else_is_python(tmp_path: Path) -> None:
    """`python -m worker`, in the folder of the modules that run now, with the interpreter that runs now."""
    for argv0 in (str(tmp_path / "caspen-sync"), "/x/worker/__main__.py", ""):
        found = unit.this_one(argv0)
        assert found.command == [sys.executable, "-m", "worker"]
        assert found.folder in (None, Path(worker.__file__).parents[1])
        assert Path(sys.prefix) in found.parts


def test_nothing_is_shown_twice() -> None:
    """What is within another is not shown again."""
    assert to_be_shown(map(Path, ("/tmp/a/b", "/tmp/a", "/tmp/ab", "/opt/a"))) == [Path("/tmp/a"), Path("/tmp/ab")]


def test_owner_and_group_may_do_more(tmp_path: Path) -> None:
    """Modes are those of the user that is meant."""
    folder = tmp_path / "x"
    folder.mkdir(mode=0o750)
    assert closed_to("root", folder, shown=[folder]) is None
    assert closed_to("nobody", folder, shown=[folder]) == folder
    assert closed_to("nosuchuser", folder, shown=[folder]) == folder


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may enter everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_one_may_not_enter(tmp_path: Path) -> None:
    """Whether there is a configuration cannot be seen: an error that names it, instead of going on without."""
    tmp_path.chmod(0)
    try:
        with as_nobody(), pytest.raises(ConfigError, match=r"config\.toml: cannot be read: Permission denied"):
            find_config(tmp_path / "config.toml", {})
    finally:
        tmp_path.chmod(0o755)


def test_settings_without_a_file() -> None:
    """They have no token, and a unit can be made of them all the same."""
    installation = unit.this_one("")
    text = unit.service(unit.Plan(installation=installation, config=Path("/x"), settings=Settings()))
    assert "LoadCredential=config.toml:/x\n" in text
    assert "LoadCredential=token" not in text
