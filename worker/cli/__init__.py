"""The command line: parse, call, exit code. What a command needs is imported when it runs, not before."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from worker import __version__
from worker.errors import CaspenSyncError, ExitCode

EPILOG = """\
exit codes: 0 nothing left to do; 64 bad usage; 65 drained, but this run parked a change; 69 database or API out of
reach; 75 work is left (backing off, or out of time); 77 an account is paused because the API refused its token;
78 bad configuration
"""


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

    privacy.install()
    try:
        return int(args.handler(args))
    except CaspenSyncError as error:
        privacy.say(str(error))
        return int(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing more can be written, not even at exit.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        return int(ExitCode.OK)
    except OSError as error:
        privacy.say(error.strerror or type(error).__name__)
        return int(ExitCode.UNREACHABLE)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  its message could quote a body
        privacy.say_crashed(error)
        return int(ExitCode.INTERNAL)


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


_MIGRATE = """\
Brings the schema caspen_sync up to date. Safe to run twice, or from two hosts at once; refuses a schema that is newer
than this program.
"""
_RUN = """\
Sends pending changes to the API and writes the answers back. Without --once it is the service: it works until SIGTERM
or SIGINT, which let requests in flight finish and give the rest back; a second signal stops at once.
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


def _sandbox(args: argparse.Namespace) -> int:
    from worker.cli.sandbox import run

    return run(args)


def _demo(args: argparse.Namespace) -> int:
    from worker.cli.demo import run

    return run(args)
