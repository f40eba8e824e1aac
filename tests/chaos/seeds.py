"""Chance that can be played again."""

from __future__ import annotations

import os
import random


def seed_of_this_run() -> int:
    """The one in CASPEN_SYNC_TEST_SEED, or a new one; it is printed, and so shown when the test fails."""
    seed = int(os.environ.get("CASPEN_SYNC_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"CASPEN_SYNC_TEST_SEED={seed}")
    return seed
