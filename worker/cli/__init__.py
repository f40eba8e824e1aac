"""The command line: parse, call, exit code. What a command needs is imported when it runs, not before."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from worker import __version__
from worker.errors import CaspenSyncError, ExitCode

EPILOG = """\
exit codes: 0 nothing left to do; 64 bad usage; 65 drained, but this run parked a change; 69 database or API out of
reach; 70 a fault of caspen-sync itself; 75 work is left (backing off, or out of time); 77 an account is paused because
the API refused its token; 78 bad configuration
"""


Commands = Any  # argparse keeps the class of its subcommands' collection to itself


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Names options that it does not know without what was given with them: it may have been a token."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            options = [argument.partition("=")[0] for argument in unknown if argument.startswith("--")]
            self.error(f"unrecognized arguments: {' '.join(options) or 'what stands after the command'}")
        return parsed

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(ExitCode.USAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. A person never sees a traceback for something they can mend."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = _build(arguments)
    args = parser.parse_args(arguments)

    from worker import privacy
    from worker.cli.terminal import empty_stderr, give_up_stdout, prepare_streams

    privacy.install()
    prepare_streams()
    try:
        return _to_its_end(args)
    except CaspenSyncError as error:
        privacy.say(str(error))
        return int(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        give_up_stdout()
        return int(ExitCode.OK)
    except OSError as error:
        give_up_stdout()
        privacy.say(error.strerror or type(error).__name__)
        return int(ExitCode.UNREACHABLE)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  its message could quote a body
        privacy.say_crashed(error)
        return int(ExitCode.INTERNAL)
    finally:
        empty_stderr()


def _to_its_end(args: argparse.Namespace) -> int:
    exit_code = int(args.handler(args))
    sys.stdout.flush()  # here, where it is known what to say when that fails
    return exit_code


def _build(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="caspen-sync",
        description="Carries committed changes from a Postgres outbox to the Caspen API, and the answers back.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"caspen-sync {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    command = commands.add_parser("migrate", help="bring the schema up to date", description=_MIGRATE, epilog=EPILOG)
    command.add_argument("--roles", action="store_true", help="also make or update the roles writer, worker, reader")
    _add_common(command)
    command.set_defaults(handler=_migrate)

    command = commands.add_parser("run", help="send pending changes", description=_RUN, epilog=EPILOG)
    command.add_argument("--once", action="store_true", help="work until nothing pending is due, then exit (for cron)")
    command.add_argument(
        "--max-runtime",
        type=_seconds,
        metavar="S",
        help="with --once: claim nothing new after S seconds; requests on the wire then still finish",
    )
    _add_common(command)
    command.set_defaults(handler=_run)

    _add_status(commands)
    _add_parked(commands)
    _add_attempts(commands)
    _add_pause(commands)

    command = commands.add_parser("prune", help="delete what is older than the retention", description=_PRUNE)
    _add_common(command)
    command.set_defaults(handler=_prune)

    command = commands.add_parser("sandbox", help="a stand-in for the API", description=_SANDBOX)
    if "sandbox" in arguments:
        from worker.sandbox.command import add_arguments

        add_arguments(command)
    command.set_defaults(handler=_sandbox)

    command = commands.add_parser("demo", help="all of it, with nothing to configure", description=_DEMO)
    command.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C, and say how to use it")
    command.add_argument("--changes", type=_count, default=300, metavar="N", help="how many changes (default 300)")
    command.set_defaults(handler=_demo)
    return parser


def _add_status(commands: Commands) -> None:
    command = commands.add_parser("status", help="how it is", description=_STATUS, epilog=EPILOG)
    command.add_argument("--json", action="store_true", help="for programs")
    _add_common(command)
    command.set_defaults(handler=_status)


def _add_parked(commands: Commands) -> None:
    parked = commands.add_parser("parked", help="the refused changes", description=_PARKED, epilog=EPILOG)
    actions = parked.add_subparsers(
        title="actions", metavar="ACTION", required=True, parser_class=_Parser, dest="action"
    )

    command = actions.add_parser("list", help="which, since when, and why", description=_PARKED_LIST)
    _add_filters(command)
    command.add_argument("--limit", type=_positive, metavar="N", help="at most N, the oldest")
    command.add_argument("--json", action="store_true", help="for programs: an array of objects")

    command = actions.add_parser("show", help="one change: body, attempts, the API's words", description=_PARKED_SHOW)
    command.add_argument("id", type=_positive, metavar="ID")
    command.add_argument("--account", metavar="NAME", help="only if it is of this account")
    command.add_argument("--json", action="store_true", help="for programs: one object")

    for name, verb, description in (("retry", "send again", _PARKED_RETRY), ("discard", "give up", _PARKED_DISCARD)):
        command = actions.add_parser(name, help=f"{verb} some or all", description=description)
        command.add_argument("ids", type=_positive, nargs="*", metavar="ID")
        _add_filters(command)
        command.add_argument("--all", action="store_true", help="every parked change")
        command.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
        command.add_argument("--yes", action="store_true", help="do not ask, even in a terminal")
        command.add_argument("--reason", metavar="TEXT", help="why; it is kept beside who and when")

    command = actions.add_parser("edit", help="replace a change's body and send it", description=_PARKED_EDIT)
    command.add_argument("id", type=_positive, metavar="ID")
    command.add_argument("--account", metavar="NAME", help="only if it is of this account")
    command.add_argument("--file", type=Path, metavar="FILE", help="the new body; - for standard input")
    command.add_argument("--reason", metavar="TEXT", help="why; it is kept beside who and when")

    for command in actions.choices.values():
        _add_common(command)
        command.set_defaults(handler=_parked)


def _add_attempts(commands: Commands) -> None:
    command = commands.add_parser("attempts", help="the requests made for one appointment", description=_ATTEMPTS)
    command.add_argument("appointment", metavar="APPOINTMENT", help="its id; after -- if it begins with a -")
    command.add_argument("--account", metavar="NAME", help="only those of this account")
    command.add_argument("--limit", type=_positive, default=50, metavar="N", help="the newest N (default 50)")
    command.add_argument("--json", action="store_true", help="for programs: an array of objects")
    _add_common(command)
    command.set_defaults(handler=_attempts)


def _add_pause(commands: Commands) -> None:
    command = commands.add_parser("pause", help="stop one account", description=_PAUSE)
    command.add_argument("account", metavar="ACCOUNT")
    command.add_argument("--reason", metavar="TEXT", help="why; status and run --once show it")
    _add_common(command)
    command.set_defaults(handler=_pause)

    command = commands.add_parser("resume", help="let one account go on", description=_RESUME)
    command.add_argument("account", metavar="ACCOUNT")
    command.add_argument("--reason", metavar="TEXT", help="why; it is kept beside who and when")
    _add_common(command)
    command.set_defaults(handler=_resume)


def _add_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--account", type=_given, metavar="NAME", help="only those of this account")
    command.add_argument(
        "--appointment",
        type=_given,
        metavar="ID",
        help="only those of this appointment; --appointment=ID if it begins with -",
    )
    command.add_argument(
        "--since",
        type=_since,
        metavar="T",
        help="only those parked since: 2026-11-24, 2026-11-24T08:30, or 90m, 12h, 3d",
    )
    command.add_argument("--error", type=_given, metavar="TEXT", help="only those whose error holds this text")


_MIGRATE = """\
Brings the schema caspen_sync up to date. Safe to run twice, or from two hosts at once; refuses a schema that is newer
than this program.
"""
_RUN = """\
Sends pending changes to the API and writes the answers back. Without --once it is the service: it works until SIGTERM
or SIGINT, which let requests in flight finish and give the rest back; a second signal stops at once.
"""
_STATUS = """\
How each account is: what is pending and for how long, what is on the wire, backing off and parked, the budget, and
whether it is paused, why, and until when; and which workers are alive.
"""
_PARKED = """\
Changes that the API refused, or that break its contract, wait here for a person. The others of their appointment go on.
"""
_PARKED_LIST = """\
The parked changes, oldest first, without their bodies.
"""
_PARKED_SHOW = """\
One parked change with everything about it. Prints its body and the API's words to it: mind who looks on.
"""
_PARKED_RETRY = """\
Makes parked changes pending again, each at its old place in the order: fields that newer changes of the same
appointment have set since are left out, and that is said. In a terminal, the number of changes is asked back.
"""
_PARKED_DISCARD = """\
Gives parked changes up: they are never sent. In a terminal, the number of changes is asked back.
"""
_PARKED_EDIT = """\
Replaces what a parked change says and makes it pending again, as retry does. The new body comes from FILE, from
standard input, or, in a terminal, from your $EDITOR; never from an argument, which the list of processes would show.
"""
_ATTEMPTS = """\
The requests that were made for one appointment, newest first: when, what came of it, and which changes it carried.
"""
_PAUSE = """\
Stops an account in every process until it is resumed. Requests on the wire finish; changes are taken in and wait.
"""
_RESUME = """\
Lets an account go on, whatever it is paused for: by hand, or because the API refused it, rejected everything, or was
down.
"""
_PRUNE = """\
Deletes finished changes and attempts that are older than worker.retention_days, in small steps. What is pending or
parked stays, and its attempts with it. The service does so by itself every hour; this is for where only cron jobs run.
"""
_SANDBOX = """\
A stand-in for the API that follows its contract, throttle and faults included. Point api.base_url at the address that
it prints.
"""
_DEMO = """\
Starts a Postgres of its own and the sandbox, writes some hundred changes and works them off, with a short rate window
so that it takes well under a minute. Leaves nothing behind.
"""


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="the configuration file")
    command.add_argument("--dsn", metavar="URI", help="overrides database.dsn; others see it: no password")
    command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="overrides log.level")
    command.add_argument("--log-format", choices=("auto", "json", "console"), help="overrides log.format")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _since(text: str) -> datetime:
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}.get(text[-1:])
    try:
        if unit and text[:-1].isascii() and text[:-1].isdigit() and len(text) < 8:
            return datetime.now(UTC) - timedelta(**{unit: int(text[:-1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time such as 2026-11-24T08:30, nor one ago such as 12h"
        ) from None


def _given(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty; leave it out to mean any")
    return text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 10 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 10 to 100000")
    return int(text)


def _migrate(args: argparse.Namespace) -> int:
    from worker.cli.migrate import run

    return run(args)


def _run(args: argparse.Namespace) -> int:
    from worker.cli.run import run

    return run(args)


def _status(args: argparse.Namespace) -> int:
    from worker.cli.status import run

    return run(args)


def _parked(args: argparse.Namespace) -> int:
    from worker.cli.parked import run

    return run(args)


def _attempts(args: argparse.Namespace) -> int:
    from worker.cli.attempts import run

    return run(args)


def _pause(args: argparse.Namespace) -> int:
    from worker.cli.pause import run_pause

    return run_pause(args)


def _resume(args: argparse.Namespace) -> int:
    from worker.cli.pause import run_resume

    return run_resume(args)


def _prune(args: argparse.Namespace) -> int:
    from worker.cli.prune import run

    return run(args)


def _sandbox(args: argparse.Namespace) -> int:
    from worker.cli.sandbox import run

    return run(args)


def _demo(args: argparse.Namespace) -> int:
    from worker.cli.demo import run

    return run(args)
