"""Chance that can be played again."""

from __future__ import annotations

import os
import random

import pytest

_WHOLE = ("TEST_SEED", "MODEL_SEED", "MODEL_EXAMPLES", "MODEL_STEPS")


def refuse_what_is_no_number() -> None:
    """Of the variables by which a person says what is to be tried. Raises pytest.UsageError, which names it."""
    for name in (f"CASPEN_SYNC_{one}" for one in _WHOLE):
        value = os.environ.get(name) or "0"
        if not (value.isascii() and value.isdecimal() and len(value) < 19):
            raise pytest.UsageError(f"{name}={value}: this is not a whole number")


def seed_of_this_run() -> int:
    """The one in CASPEN_SYNC_TEST_SEED, or a new one; it is printed, and so shown when the test fails."""
    seed = int(os.environ.get("CASPEN_SYNC_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"CASPEN_SYNC_TEST_SEED={seed}")
    return seed
