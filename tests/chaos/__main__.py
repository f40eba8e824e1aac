"""`python -m tests.chaos`: storms, one after the other, and a table of what happened."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import Sequence

from tests.chaos import arguments
from tests.chaos.storm import Outcome, Plan, storm
from tests.support.servers import migrated_cluster

_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog="exit codes: 0 every rule held; 1 one did not, and it is said how; 2 wrong arguments; 130 interrupted",
    )
    parser.add_argument(
        "--minutes", type=arguments.minutes(0.1, 1440), default=1.0, metavar="M", help="of each storm (%(default)s)"
    )
    parser.add_argument("--storms", type=arguments.count, default=1, metavar="N", help="how many (%(default)s)")
    parser.add_argument(
        "--seed",
        type=arguments.seed,
        metavar="N",
        help="of the first; the next ones follow. The times are chance",
    )
    args = parser.parse_args()
    first = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or else Postgres would stay
    try:
        return run(range(first, first + args.storms), 60 * args.minutes)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run(seeds: Sequence[int], seconds: float) -> int:
    """Prints what happened, and of which seed. 0: every rule held; 1: not so."""
    outcomes: list[Outcome] = []
    with migrated_cluster() as cluster:
        for seed in seeds:
            print(f"seed {seed}", flush=True)
            outcome = asyncio.run(storm(Plan(seed=seed, seconds=seconds), cluster))
            print(told([outcome]), flush=True)
            outcomes.append(outcome)
    if len(outcomes) > 1:
        print(told(outcomes))
    return 1 if any(outcome.violations for outcome in outcomes) else 0


def told(outcomes: list[Outcome]) -> str:
    """A table in Markdown."""
    hands, faults = Counter[str](), Counter[str]()
    for outcome in outcomes:
        hands.update(outcome.hands)
        faults.update(outcome.faults)
    violations = [violation for outcome in outcomes for violation in outcome.violations]
    rows = [
        ("storms, minutes", f"{len(outcomes)}, {sum(one.seconds for one in outcomes) / 60:.1f}"),
        ("changes, transactions", f"{sum(o.changes for o in outcomes):,}, {sum(o.transactions for o in outcomes):,}"),
        ("requests", f"{sum(o.requests for o in outcomes):,}"),
        ("hands", ", ".join(f"{name} {count}" for name, count in sorted(hands.items()))),
        ("faults of the API", ", ".join(f"{name} {count}" for name, count in sorted(faults.items()))),
        ("violations", str(len(violations))),
    ]
    lines = [f"| {name} | {figure} |" for name, figure in rows]
    shown = [f"  {violation}" for violation in violations[:_SHOWN]]
    known = [outcome.casefile for outcome in outcomes if outcome.casefile]
    return "\n".join(["| | |", "| --- | --- |", *lines, *shown, *known])


if __name__ == "__main__":
    sys.exit(main())
