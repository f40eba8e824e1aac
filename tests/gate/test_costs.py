"""What a request costs, held to a committed baseline; nothing of it depends on how fast or how busy the machine is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gate.baseline import load, moved, told
from tests.gate.scenarios import SCENARIOS, TITLES


@pytest.mark.long
@pytest.mark.skipif("CASPEN_SYNC_TEST_PARTITIONED" in os.environ, reason="another schema has costs of its own")
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_it_costs_what_it_did(
    scenario: str, cluster: Path, record_property: Callable[[str, object], None]
) -> None:
    """Statements, round trips, WAL, dead tuples and rows read are those of the baseline. How long it took is told."""
    began_at = time.monotonic()
    measured = await SCENARIOS[scenario](cluster)
    record_property("gate", f"{scenario} took {time.monotonic() - began_at:.1f} s")
    baseline = load()
    found = moved(baseline, measured)
    if found:
        pytest.fail(told(found, baseline), pytrace=False)


def test_the_baseline_has_every_scenario() -> None:
    """And none that is gone."""
    assert load().keys() - {"taken_with"} == TITLES.keys()
