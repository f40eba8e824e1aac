"""What may go wrong on the way, by name and probability.

One seeded number decides each request, so the same seed and the same order of requests give the same faults.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from enum import StrEnum
from typing import cast


class Fault(StrEnum):
    """The faults. "Applied" means that the update took effect, whatever the client gets to see."""

    HTTP_500 = "http_500"
    """Answered 500, not applied."""
    HTTP_502 = "http_502"
    """Answered 502, not applied."""
    HTTP_503 = "http_503"
    """Answered 503, not applied."""
    RESET_BEFORE = "reset_before"
    """The connection is reset, not applied."""
    RESET_AFTER = "reset_after"
    """Applied, then the connection is reset."""
    SLOW = "slow"
    """Applied and answered only after `slow_s`, whether the client still waits or not."""
    LATE_APPLY = "late_apply"
    """Answered 504 at once, and applied `late_s` later: an old request that lands after newer ones."""
    CUT = "cut"
    """Applied; the answer's body stops short of its Content-Length."""
    GARBLED = "garbled"
    """Applied; answered 200 with a body that is not JSON."""
    NO_CONTENT = "no_content"
    """Applied; answered 204."""


FAULT_NAMES = tuple(fault.value for fault in Fault)


def checked_probabilities(probabilities: Mapping[str, object]) -> dict[Fault, float]:
    """The same by Fault; ValueError, saying what is allowed, for an unknown name or a probability out of range."""
    checked: dict[Fault, float] = {}
    for name, probability in probabilities.items():
        if name not in FAULT_NAMES:
            raise ValueError(f"{name!r} is not a fault; the faults are {', '.join(FAULT_NAMES)}")
        is_number = isinstance(probability, int | float) and not isinstance(probability, bool)
        value = float(cast("float", probability)) if is_number else math.nan
        if not 0 <= value <= 1:
            raise ValueError(f"the probability of {name} must be a number from 0 to 1")
        checked[Fault(name)] = value
    # At most one fault strikes a request, so the probabilities share one range; the rest is for rounding.
    if sum(checked.values()) > 1 + 1e-9:
        raise ValueError("the probabilities of all faults together must be at most 1")
    return checked


class FaultPlan:
    """Decides for each request which fault it meets, if any."""

    def __init__(self, probabilities: Mapping[str, object], seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - guards nothing
        self._probabilities = checked_probabilities(probabilities)

    @property
    def probabilities(self) -> Mapping[Fault, float]:
        """The probabilities in force."""
        return dict(self._probabilities)

    def replace(self, probabilities: Mapping[str, object]) -> None:
        """Other probabilities from the next request on; the row of random numbers goes on where it was.

        Raises ValueError as `checked_probabilities` does, and then changes nothing.
        """
        self._probabilities = checked_probabilities(probabilities)

    def draw(self) -> Fault | None:
        """The next request's fault. Draws one number even when no fault is set, so that a seed's row stays the same."""
        number = self._random.random()
        for fault, probability in self._probabilities.items():
            if number < probability:
                return fault
            number -= probability
        return None
