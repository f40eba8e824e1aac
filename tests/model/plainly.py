"""Plain chance for hypothesis: each run is drawn anew.

By itself it makes five more runs of each one that it draws, by repeating parts of it; for us those are hardly new.
Shrinking stays as it is.
"""

from __future__ import annotations

from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

NAME = "plainly"


class Plainly(HypothesisProvider):
    """Draws as hypothesis does, and leaves the choice of runs to chance."""


AVAILABLE_PROVIDERS[NAME] = f"{__name__}.Plainly"
