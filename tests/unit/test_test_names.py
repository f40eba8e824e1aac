"""The tests' own names: the processes that share a run compare them, and refuse to begin if one has another list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def collected(hash_seed: int) -> list[str]:
    """Each test's name, as a process collects them that hashes with this seed."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-m", "", "-q", "--collect-only"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stdout[-2000:]
    return [line for line in listed.stdout.splitlines() if "::" in line]


@pytest.mark.long
def test_a_test_keeps_its_name() -> None:
    """Whenever it is collected, and however sets are ordered: no clock, chance or process shows in a parameter."""
    first, later = collected(1), collected(2)
    assert first
    assert [pair for pair in zip(first, later, strict=True) if pair[0] != pair[1]] == []
