"""Storms that the product comes through: every rule holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.hands import CABLES, HANDS, SURROUNDINGS
from tests.chaos.hosts import permitted
from tests.chaos.sabotage import BUSY, FREEZING, LOSING, OUTAGES, RETRYING
from tests.chaos.seeds import seed_of_this_run
from tests.chaos.storm import FAULTS, Plan, storm

# Of the one with everything in it; `python -m tests.chaos` has storms as long as you like.
SECONDS = 60


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("throttle", ["rolling", "fixed"])
async def test_everything_at_once_breaks_no_rule(throttle: Any, cluster: Path) -> None:
    """Writers, workers, faults of the API, and all hands: the auditor finds nothing."""
    outcome = await storm(Plan(seed=seed_of_this_run(), seconds=SECONDS, throttle=throttle), cluster)
    print(outcome.hands, outcome.faults)
    outcome.assert_clean()
    assert outcome.requests > 300
    assert outcome.hands.keys() <= HANDS.keys()
    assert outcome.hands["kill"] >= 3


@pytest.mark.long
@pytest.mark.skipif(not permitted(), reason="makes network namespaces: run it as root, with iproute2 installed")
async def test_pulled_cables_break_no_rule(cluster: Path) -> None:
    """Each worker on a host of its own, whose cable is pulled and plugged in: what TCP delivers late harms nobody."""
    surroundings = {**CABLES, "postgres_fast": SURROUNDINGS["postgres_fast"]}
    # What TCP holds up takes a timeout; the API may not hold it up for another one.
    faults = {name: share for name, share in FAULTS.items() if name not in ("slow", "late_apply")}
    plan = Plan(seed=seed_of_this_run(), seconds=40, hosts=3, surroundings=surroundings, faults=faults)
    outcome = await storm(plan, cluster)
    print(outcome.hands)
    outcome.assert_clean()
    assert outcome.hands["cable_pulled"] >= 3
    assert outcome.requests > 100


@pytest.mark.long
@pytest.mark.parametrize(
    "weather",
    [BUSY, FREEZING, LOSING, OUTAGES, RETRYING],
    ids=["busy", "freezing", "losing", "outages", "retrying"],
)
async def test_where_a_broken_rule_is_found_the_product_breaks_none(weather: Mapping[str, Any], cluster: Path) -> None:
    """What the sabotaged product shows in this weather, the whole one does not."""
    outcome = await storm(Plan(**{"seed": seed_of_this_run(), "seconds": 15.0, **weather}), cluster)
    outcome.assert_clean()
    assert outcome.requests > 30
