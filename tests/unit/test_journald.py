"""Levels for journald: real processes whose stderr is a file or a pipe that JOURNAL_STREAM names, or does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker import journald

LOG = """
from worker import config, privacy, telemetry
privacy.install()
telemetry.configure(config.LogSettings(format='{format}', level='debug'))
for level in ('debug', 'info', 'warning', 'error'):
    getattr(telemetry.log(), level)('request')
import logging
logging.getLogger('lib').critical('words')
telemetry.log().error('request', error='two\\nlines')
"""
SAY = """
from worker import privacy
privacy.install()
privacy.say('one', 'two')
import warnings
warnings.warn('words')
"""
PREFIXES = ["<7>", "<6>", "<4>", "<3>", "<2>", "<3>"]


def run(*args: str, stream: str = "{dev}:{ino}") -> str:
    """What a Python process says on a pipe, to which JOURNAL_STREAM may lead."""
    reading, writing = os.pipe()
    stat = os.fstat(writing)
    env = os.environ | {"JOURNAL_STREAM": stream.format(dev=stat.st_dev, ino=stat.st_ino)}
    with os.fdopen(reading, encoding="utf-8") as said:
        subprocess.run([sys.executable, *args], env=env, stderr=writing, check=False)
        os.close(writing)
        return said.read()


@pytest.mark.parametrize("format", ["json", "console", "auto"])
def test_each_line_of_the_log_has_its_level(format: str) -> None:  # noqa: A002
    """In either format, and for what libraries log; auto stays JSON, and what follows the prefix is what it was."""
    lines = run("-c", LOG.format(format=format)).splitlines()
    assert [line[:3] for line in lines] == PREFIXES
    if format != "console":
        levels = [json.loads(line[3:])["level"] for line in lines]
        assert levels == ["debug", "info", "warning", "error", "critical", "error"]


def test_a_file_is_as_good_as_a_pipe(tmp_path: Path) -> None:
    """Device and inode tell, whatever kind of file it is."""
    path = tmp_path / "journal"
    with path.open("w") as journal:
        stat = os.fstat(journal.fileno())
        env = os.environ | {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}
        subprocess.run([sys.executable, "-c", LOG.format(format="json")], env=env, stderr=journal, check=True)
    assert [line[:3] for line in path.read_text("utf-8").splitlines()] == PREFIXES


def test_lines_for_a_person_are_errors() -> None:
    """Each line of what a command says; what libraries say before there is a log keeps its level."""
    lines = run("-c", SAY).splitlines()
    assert lines[:2] == ["<3>caspen-sync: one", "<3>caspen-sync: two"]
    assert lines[2].startswith("<4>caspen-sync: level=warning event=python_warning")


def test_a_command_that_fails() -> None:
    """Its one line is an error in the journal."""
    assert run("-m", "worker", "run", "--config", "/nowhere").startswith("<3>caspen-sync: --config names /nowhere")


@pytest.mark.parametrize("stream", ["", "1:2", "{dev}", "{ino}:{dev}", "{dev}:{ino}0", "journal"])
def test_elsewhere_there_is_no_prefix(stream: str) -> None:
    """The variable alone means nothing: stderr may have been led elsewhere since."""
    lines = run("-c", LOG.format(format="json") + SAY, stream=stream).splitlines()
    assert len(lines) == 9
    assert [line for line in lines if line.startswith("<")] == []


def test_nobody_is_fooled_in_this_process() -> None:
    """pytest's stderr is no journal, and may be no file."""
    assert not journald.stderr_leads_there({})
    assert not journald.stderr_leads_there({"JOURNAL_STREAM": "1:1"})
