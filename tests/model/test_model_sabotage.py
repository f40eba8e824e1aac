"""The model finds what is broken: each rule is broken in a copy of the product, and the model's own test run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.sabotages import SABOTAGES, Sabotage
from worker.sqlfiles import sql_dir

ROOT = sql_dir().parent
SEED = os.environ.get("CASPEN_SYNC_MODEL_SEED", "1")
EXAMPLES = os.environ.get("CASPEN_SYNC_MODEL_EXAMPLES", "600")
TEST = "tests/model/test_model.py::test_whatever_happens_the_rules_hold"


@pytest.mark.long
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda one: one.name.replace(" ", "_"))
def test_a_broken_rule_is_found(sabotage: Sabotage, server_dsn: str, tmp_path: Path) -> None:
    """Whichever rule is broken: some schedule among the first few hundred shows it."""
    for part in ("worker", "sql", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    sabotage.commit(tmp_path)
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "CASPEN_SYNC_TEST_DSN": server_dsn,
        "CASPEN_SYNC_MODEL_SEED": SEED,
        "CASPEN_SYNC_MODEL_EXAMPLES": EXAMPLES,
        "CASPEN_SYNC_MODEL_NO_SHRINKING": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-q", "-s", "-p", "no:cacheprovider", TEST],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    told = re.findall(r"model: (\d+ runs, .*)", done.stdout)
    why = re.findall(r"^E\s+(\w*(?:Error|Exception): .*)", done.stdout, re.MULTILINE)
    print(f"{sabotage.name}: {told} {why[:1]}")
    assert done.returncode == 1, done.stdout[-5000:]
    assert str(tmp_path) in done.stdout or why, "it failed in the copy, and for what it saw"
