"""The auditor finds what it is there to find: the product with one rule broken, in a storm or a few."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.sabotage import SABOTAGES, Sabotage
from tests.chaos.seeds import seed_of_this_run
from tests.chaos.storm import Plan, storm

SECONDS = 10.0
DRAIN_S = 20.0
# What it takes to meet is chance: two workers in the same moment, a freeze in the middle of a request.
STORMS = 5


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
def test_what_is_to_be_broken_is_there(sabotage: Sabotage, tmp_path: Path) -> None:
    """Whoever moves it hears of it at once; of functions of the schema, in the long test."""
    sabotage.copy(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
async def test_a_broken_rule_is_found(sabotage: Sabotage, cluster: Path, tmp_path: Path) -> None:
    """The auditor names one of the rules that this breaks."""
    options = {"seconds": SECONDS, "drain_s": DRAIN_S, "prepare": sabotage.alter, **sabotage.weather}
    code = sabotage.copy(tmp_path)
    first = seed_of_this_run()
    found: set[int] = set()
    for seed in range(first, first + STORMS):
        outcome = await storm(Plan(seed=seed, code=code, **options), cluster)
        found |= {violation.rule for violation in outcome.violations}
        print(f"storm {seed - first + 1}", *outcome.violations[:5], sep="\n")
        if found & sabotage.rules:
            return
    pytest.fail(f"found {sorted(found)}, not one of {sorted(sabotage.rules)}")
