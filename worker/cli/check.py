"""`caspen-sync check`: what is wrong, and how to mend it."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence

from worker.check import Finding, Verdict, check, exit_code
from worker.cli.output import Colour, painter, print_json
from worker.cli.settings import settings_from
from worker.errors import ExitCode
from worker.privacy import printable, redacted

_COLOURS: dict[Verdict, Colour] = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.FAILED: "red",
    Verdict.SKIPPED: "grey",
}


def run(args: argparse.Namespace) -> ExitCode:
    """Prints what was found; the exit code is that of the worst."""
    findings = asyncio.run(check(lambda: settings_from(args), flag=args.config, dsn=args.dsn, asking=args.token))
    if args.json:
        print_json([_plain(finding) for finding in findings])
    else:
        _print(findings)
    return exit_code(findings)


def _plain(finding: Finding) -> dict[str, str | None]:
    mend = None if finding.mend is None else redacted(finding.mend)
    return {"name": finding.name, "verdict": finding.verdict, "said": redacted(finding.said), "mend": mend}


def _print(findings: Sequence[Finding]) -> None:
    paint = painter()
    verdicts, names = max(map(len, Verdict)), max(len(finding.name) for finding in findings)
    for finding in findings:
        verdict = paint(finding.verdict.ljust(verdicts), _COLOURS[finding.verdict])
        print(f"{verdict}  {finding.name.ljust(names)}  {printable(redacted(finding.said))}")
        if finding.mend is not None:
            print(f"{' ' * (verdicts + names + 2)}  {printable(redacted(finding.mend))}")
    counts = Counter(finding.verdict for finding in findings)
    print(", ".join(f"{counts[verdict]} {_many(verdict, counts[verdict])}" for verdict in Verdict if counts[verdict]))


def _many(verdict: Verdict, count: int) -> str:
    return f"{verdict}s" if verdict is Verdict.WARNING and count > 1 else verdict
