"""What was measured, and what is made of it: medians, spreads, percentiles, ratios to the bare limit."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.drain import Drain
from tests.bench.roster import BARE


@dataclass(slots=True)
class Results:
    """Of a whole benchmark, by contestant; the drains are in the order of the rounds."""

    drains: defaultdict[str, dict[int, Drain]] = field(default_factory=lambda: defaultdict(dict))
    idle_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[str, str] = field(default_factory=dict)
    capacity: list[float] = field(default_factory=list)
    """Requests a second that the server answered to its cheap client, for each round."""

    def all(self, name: str, figure: str) -> list[float]:
        """One figure of each of its drains, by its name."""
        return [getattr(drain, figure) for drain in self.drains[name].values()]

    def share_of_bare(self, name: str) -> float | None:
        """Requests a second against the bare limit's: the median of the rounds' ratios, since both of a round met the
        same machine."""
        bare = self.drains[BARE.name]
        ratios = [
            drain.requests_per_s / bare[number].requests_per_s
            for number, drain in self.drains[name].items()
            if number in bare
        ]
        return statistics.median(ratios) if ratios else None

    def idle_ms(self, name: str, share: float) -> float | None:
        """A percentile of the time from commit to request, over all rounds."""
        return percentile(self.idle_s[name], share) * 1000 if self.idle_s[name] else None

    def times_bare(self, name: str, share: float) -> float | None:
        """A percentile against the bare limit's."""
        own, bare = self.idle_ms(name, share), self.idle_ms(BARE.name, share)
        return own / bare if own and bare else None


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank: a value that was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """From the least to the most."""
    return f"{min(values):{form}}-{max(values):{form}}"
