"""How a process ends whose threads nobody waits for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BUSY = """
import sys, threading
from typing import Annotated
from pydantic import BeforeValidator, TypeAdapter
from worker import cli
from worker.errors import ConfigError

begun = threading.Event()
check = TypeAdapter(list[Annotated[int, BeforeValidator(lambda value: begun.set() or value)]])

def busy():
    while True:
        check.validate_python(list(range(100_000)))

def work(args):
    print("what was said")
    if {fails}:
        raise ConfigError("a setting is bad")
    return 75

threading.Thread(target=busy, daemon=True).start()
begun.wait()
sys.argv[1:] = ["status"]
cli._to_its_end = work
cli.command()
"""


@pytest.mark.parametrize(("fails", "exit_code"), [(True, 78), (False, 75)], ids=["error", "result"])
def test_a_thread_in_compiled_code_costs_neither_the_exit_code_nor_the_output(fails: bool, exit_code: int) -> None:
    """Seen when Postgres went away under a backfill: the lines that it had read were still being checked, and the
    process ended by SIGABRT and not with 69. What was not flushed yet is said all the same."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    code = BUSY.format(fails=fails)
    ended = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, check=False, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (exit_code, "what was said\n"), ended.stderr
    assert ended.stderr == ("caspen-sync: a setting is bad\n" if fails else "")
