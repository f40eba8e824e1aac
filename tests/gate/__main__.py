"""`python -m tests.gate [SCENARIO…]`: what it costs, beside the baseline, and how long it took. With `--write` it
becomes the baseline."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from tests.gate.baseline import PATH, Costs, load, moved, told, written
from tests.gate.scenarios import SCENARIOS, TITLES
from tests.support.servers import migrated_cluster


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gate", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all")
    parser.add_argument("--write", action="store_true", help="make it the baseline")
    args = parser.parse_args()
    baseline = load()
    measured: dict[str, Costs] = {}
    with migrated_cluster() as cluster:
        for name in args.scenarios or SCENARIOS:
            began_at = time.monotonic()
            measured.update(asyncio.run(SCENARIOS[name](cluster)))
            print(f"{name}: {time.monotonic() - began_at:.1f} s")
    print(written(measured, TITLES))
    found = moved(baseline, measured)
    if args.write:
        PATH.write_text(written({**baseline, **measured}, TITLES), "utf-8")
        print(f"{PATH}: {len(found)} costs outside the tolerance of what they were", *found, sep="\n  ")
        return 0
    print(told(found, baseline) if found else "as the baseline says")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
