"""The command line: parse, call, exit code."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from worker.cli.arguments import parser
from worker.errors import CaspenSyncError, ExitCode


def command() -> NoReturn:
    """`caspen-sync`: ends the process with the exit code of what the command line asks for."""
    exit_code = main()

    from worker.threads import end_whatever_runs

    end_whatever_runs(exit_code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. A person never sees a traceback for something they can mend."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = parser(arguments).parse_args(arguments)

    from worker import privacy
    from worker.cli.terminal import empty_stderr, give_up_stdout, prepare_streams

    privacy.install()
    prepare_streams()
    try:
        return _to_its_end(args)
    except CaspenSyncError as error:
        privacy.say(*error.lines)
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
    # What a command needs is imported when it runs, not before.
    module, _, function = args.handler.partition(":")
    handler = getattr(importlib.import_module(f"worker.cli.{module}"), function)
    exit_code = int(handler(args))
    sys.stdout.flush()  # here, where it is known what to say when that fails
    return exit_code
