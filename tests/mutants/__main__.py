"""`python -m tests.mutants`: changes one expression of a statement at a time, and looks which test fails."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import arguments
from tests.mutants.operators import mutants
from tests.mutants.search import Found, can_run, copied, failing_test, search
from tests.mutants.selection import STATEMENTS
from tests.support.servers import migrated_cluster, server_on_a_copy
from worker.sqlfiles import sql_dir

QUERIES = sql_dir() / "queries"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        epilog="exit codes: 0 each mutant was found; 1 some were not, and they are listed; 2 wrong arguments; "
        "130 interrupted",
    )
    parser.add_argument(
        "statements",
        nargs="*",
        type=_statement,
        default=list(STATEMENTS),
        metavar="STATEMENT",
        help=f"of sql/queries/, without .sql ({', '.join(STATEMENTS)})",
    )
    parser.add_argument("--draw", type=arguments.count, metavar="N", help="try so many of them, by chance (all)")
    parser.add_argument(
        "--seed", type=arguments.seed, default=1, metavar="N", help="by which they are drawn (%(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=arguments.count,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="at once (as many as there are cores)",
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or else Postgres would stay
    try:
        with migrated_cluster() as cluster:
            return asyncio.run(run(args.statements, args.draw, args.seed, args.jobs, cluster))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


async def run(statements: Sequence[str], draw: int | None, seed: int, jobs: int, cluster: Path) -> int:
    """Prints what becomes of each mutant. 0: all were found; 1: some were not."""
    async with server_on_a_copy(cluster) as server:
        with tempfile.TemporaryDirectory(prefix="caspen-sync-mutants-") as folder:
            if failed := await failing_test(copied(Path(folder) / "whole"), server):
                print(f"without any mutant {failed} fails: mend that first", file=sys.stderr)
                return 1
            there = [(name, mutant) for name in statements for mutant in mutants((QUERIES / f"{name}.sql").read_text())]
            wanted = [(name, mutant) for name, mutant in there if await can_run(server, mutant)]
            print(f"{len(there)} mutants of {', '.join(statements)}, of which Postgres takes {len(wanted)}")
            if draw is not None and draw < len(wanted):
                wanted = random.Random(seed).sample(wanted, draw)
                print(f"--draw {draw} --seed {seed}")
            results = await search(wanted, server, Path(folder), jobs, _tell)
    live = [one for one in results if one.by is None]
    print(f"{len(results)} tried, {len(live)} live", *map(_line, live), sep="\n")
    return 1 if live else 0


def _statement(name: str) -> str:
    if not (QUERIES / f"{name}.sql").is_file():
        raise argparse.ArgumentTypeError(f"there is no {name}.sql in sql/queries/")
    return name


def _tell(found: Found) -> None:
    print(f"{found.by or 'LIVE'}: {_line(found)}", flush=True)


def _line(found: Found) -> str:
    return f"{found.statement}: {found.mutant.what}"


if __name__ == "__main__":
    sys.exit(main())
