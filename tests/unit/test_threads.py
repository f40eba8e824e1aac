"""How a process ends whose threads nobody waits for."""

from __future__ import annotations

import subprocess
import sys

import pytest

BUSY = """
import sys, threading
from typing import Annotated
from pydantic import BeforeValidator, TypeAdapter
from worker.cli import command

begun = threading.Event()
check = TypeAdapter(list[Annotated[int, BeforeValidator(lambda value: begun.set() or value)]])

def busy():
    while True:
        check.validate_python(list(range(100_000)))

threading.Thread(target=busy, daemon=True).start()
begun.wait()
sys.argv[1:] = {arguments!r}
command()
"""


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["unit", "cron", "--config", "nowhere.toml"], 78, "caspen-sync: "),
        (["unit", "cron"], 0, "run --once"),
    ],
    ids=["refused", "well"],
)
def test_a_thread_in_compiled_code_costs_neither_the_exit_code_nor_the_output(
    arguments: list[str], exit_code: int, said: str
) -> None:
    """Seen when Postgres went away under a backfill: the lines that it had read were still being checked, and the
    process ended by SIGABRT and not with 69."""
    ended = subprocess.run(
        [sys.executable, "-c", BUSY.format(arguments=arguments)],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert ended.returncode == exit_code, ended.stderr
    assert said in (ended.stderr if exit_code else ended.stdout)
