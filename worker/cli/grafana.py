"""`caspen-sync grafana`: the dashboard and the alerting rules, on stdout."""

from __future__ import annotations

import argparse

from worker import grafana
from worker.errors import ExitCode


def run(args: argparse.Namespace) -> int:
    """Prints one of the two files, as it is; a configuration or a database is not looked for."""
    print(grafana.dashboard() if args.kind == "dashboard" else grafana.alerts(), end="")
    return ExitCode.OK
