"""Which commands and arguments there are, and what is said of them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from worker import __version__
from worker.cli import descriptions, values
from worker.errors import ExitCode

# In the words of argparse, which go on with the value.
_GIVEN_TO_A_FLAG = re.compile(r"ignored explicit argument .*", re.DOTALL)
_GIVEN_TO_ONE_OF_MANY = re.compile(r"(ambiguous option: --[^=]*)=.*(?= could match --)", re.DOTALL)

Commands = Any  # argparse keeps the class of its subcommands' collection to itself


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Names options that it does not know without what was given with them: it may have been a token."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            options = [argument.partition("=")[0] for argument in unknown if argument.startswith("--")]
            self.error(f"unrecognized arguments: {' '.join(options) or 'more is given than the command takes'}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, without what was given to an option that takes nothing, or that might be any of several:
        it may have been a token, too."""
        from worker.privacy import printable

        message = _GIVEN_TO_ONE_OF_MANY.sub(r"\1", _GIVEN_TO_A_FLAG.sub("takes no value", message))
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {printable(message)}", file=sys.stderr)
        raise SystemExit(ExitCode.USAGE)


def parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """What parses `arguments`. Each command's `handler` names, as module:function of worker.cli, what runs it."""
    parser = _Parser(
        prog="caspen-sync",
        description="Carries committed changes from a Postgres outbox to the Caspen API, and the answers back.",
        epilog=descriptions.EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"caspen-sync {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    command = commands.add_parser(
        "migrate", help="bring the schema up to date", description=descriptions.MIGRATE, epilog=descriptions.EPILOG
    )
    command.add_argument("--roles", action="store_true", help="also make or update the roles writer, worker, reader")
    _add_common(command)
    command.set_defaults(handler="migrate:run")

    command = commands.add_parser(
        "run", help="send pending changes", description=descriptions.RUN, epilog=descriptions.EPILOG
    )
    command.add_argument("--once", action="store_true", help="work until nothing pending is due, then exit (for cron)")
    command.add_argument(
        "--max-runtime",
        type=values.seconds,
        metavar="S",
        help="with --once: end after S seconds; claims end a little earlier, so that hardly a request is cut off",
    )
    command.add_argument(
        "--textfile",
        type=values.textfile,
        metavar="FILE",
        help="with --once: add what the run counted to FILE, a .prom file, for node_exporter's textfile collector",
    )
    command.add_argument("--listen", metavar="HOST:PORT", help='overrides http.listen; "" turns it off')
    _add_common(command)
    command.set_defaults(handler="run:run")

    _add_backfill(commands, arguments)
    _add_status(commands)
    _add_parked(commands)
    _add_attempts(commands)
    _add_pause(commands)
    _add_check(commands)

    command = commands.add_parser(
        "prune", help="delete what is older than the retention", description=descriptions.PRUNE
    )
    command.add_argument(
        "--older-than", type=values.days, metavar="DAYS", help="overrides worker.retention_days for this once"
    )
    _add_common(command)
    command.set_defaults(handler="prune:run")

    _add_unit(commands)
    _add_grafana(commands)

    command = commands.add_parser("sandbox", help="a stand-in for the API", description=descriptions.SANDBOX)
    if "sandbox" in arguments:
        from worker.sandbox.command import add_arguments

        add_arguments(command)
    command.set_defaults(handler="sandbox:run")

    command = commands.add_parser("demo", help="all of it, with nothing to configure", description=descriptions.DEMO)
    command.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C, and say how to use it")
    command.add_argument(
        "--changes", type=values.count, default=300, metavar="N", help="how many changes (default 300)"
    )
    command.set_defaults(handler="demo:run")
    return parser


BACKFILL_ACTIONS = ("list", "status", "cancel")


def _add_backfill(commands: Commands, arguments: Sequence[str]) -> None:
    """`backfill FILE`, or what is done to one that was loaded before. A file of such a name is given as ./list."""
    if len(arguments) > 1 and arguments[0] == "backfill" and arguments[1] in BACKFILL_ACTIONS:
        _add_backfill_actions(commands)
        return
    command = commands.add_parser(
        "backfill",
        help="many changes out of a file or a query",
        description=descriptions.BACKFILL,
        epilog=descriptions.BACKFILL_EPILOG,
    )
    command.add_argument(
        "file",
        nargs="?",
        type=values.no_action(BACKFILL_ACTIONS),
        metavar="FILE",
        help="JSON Lines or CSV, .gz too; - for standard input",
    )
    command.add_argument("--query", type=values.something, metavar="SQL", help="in place of FILE: the rows of a SELECT")
    command.add_argument("--query-file", type=values.file, metavar="FILE", help="the same, out of a file")
    command.add_argument(
        "--query-dsn",
        metavar="URI",
        help="where the query runs, if not in database.dsn; others see it: no password (~/.pgpass holds them)",
    )
    command.add_argument("--format", choices=("jsonl", "csv"), help="what FILE is, if its suffix does not tell")
    command.add_argument("--encoding", default="utf-8", metavar="NAME", help="of FILE (default utf-8, BOM or not)")
    command.add_argument("--delimiter", default=",", metavar="C", help="between the cells of CSV (default ,)")
    command.add_argument(
        "--null", default="NULL", metavar="WORD", help="what a cell of CSV says for null (default NULL)"
    )
    command.add_argument(
        "--account",
        type=values.something,
        metavar="NAME",
        help="of lines that name none (default: the only one configured, or of several the one called default)",
    )
    command.add_argument(
        "--name", type=values.something, metavar="NAME", help="what the backfill is called (default: as FILE)"
    )
    command.add_argument(
        "--as-of",
        type=values.since,
        metavar="T",
        help="how old the data is: 2026-11-24, 2026-11-24T08:30, or 90m, 12h, 3d (default: now)",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be done and when, and do nothing")
    command.add_argument("--skip-invalid", action="store_true", help="load the valid lines, and write the others apart")
    command.add_argument(
        "--rejects",
        type=values.place,
        metavar="FILE",
        help="with --skip-invalid: where to (default NAME.rejects.jsonl or .csv)",
    )
    command.add_argument(
        "--problems", type=values.whole, default=20, metavar="N", help="name the first N problems (default 20)"
    )
    command.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="work it off here, beside any service (default), or leave it to one",
    )
    command.add_argument("--json", action="store_true", help="with --dry-run, for programs: one object")
    _add_common(command)
    command.set_defaults(handler="backfill:run")


def _add_backfill_actions(commands: Commands) -> None:
    backfill = commands.add_parser("backfill", description=descriptions.BACKFILL_ACTIONS)
    actions = backfill.add_subparsers(
        title="actions", metavar="ACTION", required=True, parser_class=_Parser, dest="action"
    )
    command = actions.add_parser("list", help="which there are", description=descriptions.BACKFILL_LIST)
    command.add_argument("--json", action="store_true", help="for programs: an array of objects")

    command = actions.add_parser("status", help="how far one is", description=descriptions.BACKFILL_STATUS)
    command.add_argument("name", metavar="NAME")
    command.add_argument("--left-out", action="store_true", help="list what was left out for newer changes")
    command.add_argument(
        "--json", action="store_true", help="for programs: one object; with --left-out, one object a line"
    )

    command = actions.add_parser("cancel", help="give up what is pending", description=descriptions.BACKFILL_CANCEL)
    command.add_argument("name", metavar="NAME")
    command.add_argument("--dry-run", action="store_true", help="say what would be discarded, and do nothing")
    command.add_argument("--yes", action="store_true", help="do not ask, even in a terminal")
    for command in actions.choices.values():
        _add_common(command)
        command.set_defaults(handler="backfills:run")


def _add_status(commands: Commands) -> None:
    command = commands.add_parser(
        "status", help="how it is", description=descriptions.STATUS, epilog=descriptions.EPILOG
    )
    command.add_argument("--json", action="store_true", help="for programs; with --watch, one object a line")
    command.add_argument(
        "--watch",
        type=values.pace,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="again every so many seconds (default 2), in place in a terminal; q or Ctrl-C ends it",
    )
    _add_common(command)
    command.set_defaults(handler="status:run")


def _add_check(commands: Commands) -> None:
    command = commands.add_parser(
        "check",
        help="what is wrong, and how to mend it",
        description=descriptions.CHECK,
        epilog=descriptions.CHECK_EPILOG,
    )
    command.add_argument(
        "--token",
        action="store_true",
        help="ask the API once for each account whether it accepts the token; each costs a request of the budget",
    )
    command.add_argument("--json", action="store_true", help="for programs: an array of objects")
    _add_common(command)
    command.set_defaults(handler="check:run")


def _add_parked(commands: Commands) -> None:
    parked = commands.add_parser(
        "parked", help="the refused changes", description=descriptions.PARKED, epilog=descriptions.EPILOG
    )
    actions = parked.add_subparsers(
        title="actions", metavar="ACTION", required=True, parser_class=_Parser, dest="action"
    )

    command = actions.add_parser("list", help="which, since when, and why", description=descriptions.PARKED_LIST)
    _add_filters(command)
    command.add_argument("--limit", type=values.positive, metavar="N", help="at most N, the oldest")
    command.add_argument("--json", action="store_true", help="for programs: an array of objects")

    command = actions.add_parser(
        "show", help="one change: body, attempts, the API's words", description=descriptions.PARKED_SHOW
    )
    command.add_argument("id", type=values.positive, metavar="ID")
    command.add_argument("--account", metavar="NAME", help="only if it is of this account")
    command.add_argument("--json", action="store_true", help="for programs: one object")

    for name, verb, description in (
        ("retry", "send again", descriptions.PARKED_RETRY),
        ("discard", "give up", descriptions.PARKED_DISCARD),
    ):
        command = actions.add_parser(name, help=f"{verb} some or all", description=description)
        command.add_argument("ids", type=values.positive, nargs="*", metavar="ID")
        _add_filters(command)
        command.add_argument("--all", action="store_true", help="every parked change")
        command.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
        command.add_argument("--yes", action="store_true", help="do not ask, even in a terminal")
        command.add_argument("--reason", metavar="TEXT", help="why; it is kept beside who and when")

    command = actions.add_parser(
        "edit", help="replace a change's body and send it", description=descriptions.PARKED_EDIT
    )
    command.add_argument("id", type=values.positive, metavar="ID")
    command.add_argument("--account", metavar="NAME", help="only if it is of this account")
    command.add_argument("--file", type=Path, metavar="FILE", help="the new body; - for standard input")
    command.add_argument("--reason", metavar="TEXT", help="why; it is kept beside who and when")

    for command in actions.choices.values():
        _add_common(command)
        command.set_defaults(handler="parked:run")


def _add_attempts(commands: Commands) -> None:
    command = commands.add_parser(
        "attempts", help="the requests made for one appointment", description=descriptions.ATTEMPTS
    )
    command.add_argument("appointment", metavar="APPOINTMENT", help="its id; after -- if it begins with a -")
    command.add_argument("--account", metavar="NAME", help="only those of this account")
    command.add_argument("--limit", type=values.positive, default=50, metavar="N", help="the newest N (default 50)")
    command.add_argument("--json", action="store_true", help="for programs: an array of objects")
    _add_common(command)
    command.set_defaults(handler="attempts:run")


def _add_pause(commands: Commands) -> None:
    command = commands.add_parser("pause", help="stop one account", description=descriptions.PAUSE)
    command.add_argument("account", metavar="ACCOUNT")
    command.add_argument("--reason", metavar="TEXT", help="why; status and run --once show it")
    _add_common(command)
    command.set_defaults(handler="pause:run_pause")

    command = commands.add_parser("resume", help="let one account go on", description=descriptions.RESUME)
    command.add_argument("account", metavar="ACCOUNT")
    command.add_argument("--reason", metavar="TEXT", help="why; it is kept beside who and when")
    _add_common(command)
    command.set_defaults(handler="pause:run_resume")


def _add_unit(commands: Commands) -> None:
    unit = commands.add_parser("unit", help="a systemd unit, or a line for cron", description=descriptions.UNIT)
    kinds = unit.add_subparsers(title="kinds", metavar="KIND", required=True, parser_class=_Parser, dest="kind")

    service = kinds.add_parser("service", help="the service", description=descriptions.UNIT_SERVICE)
    service.add_argument("--once", action="store_true", help="the one that the timer starts: run --once")
    kinds.add_parser("timer", help="starts it each minute", description=descriptions.UNIT_TIMER)
    cron = kinds.add_parser("cron", help="a line for /etc/cron.d", description=descriptions.UNIT_CRON)
    for command in (service, cron):
        command.add_argument("--config", type=Path, metavar="FILE", help="the configuration file")
    unit.set_defaults(handler="unit:run")


def _add_grafana(commands: Commands) -> None:
    grafana = commands.add_parser(
        "grafana", help="a dashboard for Grafana, and alerting rules", description=descriptions.GRAFANA
    )
    kinds = grafana.add_subparsers(title="kinds", metavar="KIND", required=True, parser_class=_Parser, dest="kind")
    kinds.add_parser("dashboard", help="JSON to import", description=descriptions.GRAFANA_DASHBOARD)
    kinds.add_parser("alerts", help="rules for Prometheus, YAML", description=descriptions.GRAFANA_ALERTS)
    grafana.set_defaults(handler="grafana:run")


def _add_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--account", type=values.given, metavar="NAME", help="only those of this account")
    command.add_argument(
        "--appointment",
        type=values.given,
        metavar="ID",
        help="only those of this appointment; --appointment=ID if it begins with -",
    )
    command.add_argument(
        "--since",
        type=values.since,
        metavar="T",
        help="only those parked since: 2026-11-24, 2026-11-24T08:30, or 90m, 12h, 3d",
    )
    command.add_argument("--error", type=values.given, metavar="TEXT", help="only those whose error holds this text")


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="the configuration file")
    command.add_argument("--dsn", metavar="URI", help="overrides database.dsn; others see it: no password")
    command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="overrides log.level")
    command.add_argument("--log-format", choices=("auto", "json", "console"), help="overrides log.format")
