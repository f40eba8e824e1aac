"""Random schedules of everybody against the real schema and the real SQL; see machine.py."""

from __future__ import annotations

import os
import random
import time

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model import plainly
from tests.model.machine import Machine
from tests.model.stage import Stage

EXAMPLES = int(os.environ.get("CASPEN_SYNC_MODEL_EXAMPLES") or "0")
STEPS = int(os.environ.get("CASPEN_SYNC_MODEL_STEPS") or "50")
NO_SHRINKING = bool(os.environ.get("CASPEN_SYNC_MODEL_NO_SHRINKING"))
SEED = int(os.environ.get("CASPEN_SYNC_MODEL_SEED") or "0") or random.SystemRandom().randrange(1, 2**32)


def run(stage: Stage, examples: int) -> None:
    """Prints the seed by which a failure can be played again, and how much was tried."""
    print(f"model: CASPEN_SYNC_MODEL_SEED={SEED} CASPEN_SYNC_MODEL_EXAMPLES={examples} CASPEN_SYNC_MODEL_STEPS={STEPS}")
    began = time.monotonic()

    @seed(SEED)
    class Seeded(Machine):
        """One class for each test: hypothesis keeps what it knows with it."""

    Seeded.stage = stage
    try:
        run_state_machine_as_test(
            Seeded,
            settings=settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                deadline=None,
                backend=plainly.NAME,
                print_blob=True,
                database=None,
                report_multiple_bugs=False,
                phases=[phase for phase in Phase if phase is not Phase.shrink] if NO_SHRINKING else list(Phase),
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        took = time.monotonic() - began
        print(
            f"model: {stage.runs} runs, {stage.steps} steps, {stage.changes} changes, {stage.requests} requests, "
            f"{took:.1f} s"
        )


def test_whatever_happens_the_rules_hold(stage: Stage) -> None:
    """Whatever writers, workers, the API, people and time do, in any order: the rules of DESIGN hold."""
    run(stage, EXAMPLES or 15)


@pytest.mark.long
@pytest.mark.timeout(0 if EXAMPLES else 600)
def test_whatever_happens_for_longer_the_rules_hold(stage: Stage) -> None:
    """The same, for as long as there is time; CASPEN_SYNC_MODEL_EXAMPLES takes a night."""
    run(stage, EXAMPLES or 250)
