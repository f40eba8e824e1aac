"""The auditor finds what it is there to find: the product with one rule broken, in a storm that is long enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.sabotage import SABOTAGES, Sabotage
from tests.chaos.seeds import seed_of_this_run
from tests.chaos.storm import Plan, storm

SECONDS = 12.0


@pytest.mark.long
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
async def test_a_broken_rule_is_found(sabotage: Sabotage, cluster: Path, tmp_path: Path) -> None:
    """The auditor names one of the rules that this breaks."""
    code = sabotage.copy(tmp_path)
    options = {"seconds": SECONDS, "drain_s": 20.0, **sabotage.weather}
    outcome = await storm(Plan(seed=seed_of_this_run(), code=code, prepare=sabotage.alter, **options), cluster)
    found = {violation.rule for violation in outcome.violations}
    print(*outcome.violations[:5], sep="\n")
    assert found & sabotage.rules, f"found {sorted(found)}, not one of {sorted(sabotage.rules)}"
