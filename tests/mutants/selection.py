"""The tests that look for mutants: those that claim and write back without a worker around it, then whole workers."""

from __future__ import annotations

from collections.abc import Sequence

# What the claim of a request, and what becomes of it, is made of.
STATEMENTS = ("take_in", "claim", "claim_arrival", "take_slot", "settle")

_DIRECT = (
    "leases",
    "slots",
    "pauses",
    "claim_arrival",
    "unsure",
    "outbox",
    "pause_kinds",
    "run_ups",
    "reinstated",
    "leases_concurrent",
    "slots_resized",
    "hold_back",
    "attempts",
    "outbox_order",
)
_WORKERS = (
    "blame",
    "backfill_lane",
    "quick_retries",
    "fault_sequences",
    "unknown",
    "shared_key",
    "refusals",
    "rejections",
    "idle",
    "plans",
    "run",
    "survival",
)


def stages() -> list[Sequence[str]]:
    """Arguments of pytest, one run after the other; the first that fails has found the mutant."""
    return [_files(_DIRECT), _files(_WORKERS), ["tests/model/test_model.py"]]


def _files(names: Sequence[str]) -> list[str]:
    return [f"tests/integration/test_{name}.py" for name in names]
