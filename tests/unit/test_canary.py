"""The checker itself: what is said of a canary makes the very test fail that said it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import canary

TESTS = """
import asyncio, logging, os, sys
import pytest
from tests.support import canary
from tests.support.processes import TOKEN, start
from worker.telemetry import log

def test_prints_a_note(): print("a note:", canary.NOTE)
def test_prints_a_token(): print(TOKEN, file=sys.stderr)
def test_library_logs_a_note(): logging.getLogger("lib").warning("%s", canary.NOTE)
def test_logs_a_note_in_a_sentence(): log().info("request", error=f"no {canary.NOTE}")
def test_logs_a_field_that_is_not_declared(): log().debug("request", body={"note": "n"})
def test_sings_itself():
    canary.sing({"note": "made up here"})
    print("made up here")
def test_another_tests_value(): print("fine: made up here")
async def test_a_process():
    canary.sing("caspen-sync: ")
    process = await start("run", "--config", "/nowhere")
    with pytest.raises(canary.Leaked):
        await process.communicate()
async def test_a_process_that_may_show_a_body():
    canary.sing("caspen-sync: ")
    process = await start("parked", "show", "1", "--config", "/nowhere")
    with pytest.raises(canary.Leaked):
        await process.communicate()
def test_is_discreet():
    canary.sing({"note": "made up here"})
    log().info("request", appointment_id="app_1", error="503")
"""


@pytest.mark.long
def test_a_canary_fails_the_test(tmp_path: Path) -> None:
    """Printed, logged, logged by a library, or said by a process; and a field that nobody declared. Others pass."""
    file = tmp_path / "test_said.py"
    file.write_text(TESTS, encoding="utf-8")
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-p", "tests.conftest"),
            *("-c", root / "pyproject.toml", "--rootdir", tmp_path, file),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    ends = {
        line.split("::")[1].split(" ")[0]: line.split(" ")[0]
        for line in ended.stdout.splitlines()
        if line.startswith(("PASSED", "FAILED", "ERROR"))
    }
    assert {name for name, end in ends.items() if end == "PASSED"} == {
        "test_another_tests_value",
        "test_a_process",
        "test_a_process_that_may_show_a_body",
        "test_is_discreet",
    }, ended.stdout
    assert sum(end == "FAILED" for end in ends.values()) == 6


@pytest.mark.parametrize(
    "value",
    ["secret note", ["secret note"], {"note": "secret note"}, {"deep": [{"note": "secret note"}]}, 12345678901],
)
def test_what_is_a_canary(value: object) -> None:
    """Texts and long numbers, however deep in a body."""
    canary.sing(value)
    with pytest.raises(canary.Leaked):
        canary._look("said: secret note 12345678901", "here")


@pytest.mark.parametrize("value", ["n", 7, None, True, {"note": "short"}, "app_000001", {"secret note": 1}])
def test_what_is_none(value: object) -> None:
    """Short values, ids of appointments and the names of fields."""
    canary.sing(value)
    canary._look("said: n 7 None True short app_000001 secret note", "here")
