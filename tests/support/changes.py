"""Changes by chance, as an application or a file of a backfill might have them."""

from __future__ import annotations

import random
from typing import Any


def made_up_change(chance: random.Random, number: int) -> dict[str, Any]:
    """One change; its note numbers the appointment's changes, so that their order shows wherever they come by."""
    change: dict[str, Any] = {"note": f"change {number}"}
    if chance.random() < 0.5:
        change["room_id"] = chance.choice([None, 1, 2, 3])
    if chance.random() < 0.3:
        change["confirmed"] = chance.random() < 0.5
    if chance.random() < 0.3:
        change["resource_ids"] = [chance.randint(1, 9) for _ in range(chance.randint(1, 3))]
    return change
