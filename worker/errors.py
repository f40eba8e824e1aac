"""Everything that caspen-sync raises for a person to mend.

    CaspenSyncError
    ├── UsageError              the command line asks for something that is not there
    ├── ConfigError             a setting is unknown, bad or missing
    ├── DatabaseUnreachable     Postgres cannot be reached, or cannot do it now
    ├── DatabaseRefused         Postgres answered, and said no: a right or a setting is missing
    ├── SchemaMissing           `caspen-sync migrate` has not run, or not for this version
    ├── SchemaTooNew            the schema is of a later version than this program
    ├── SourceError             what a backfill reads cannot be read, or does not say what it should
    ├── BackfillRefused         a backfill of that name is over: another name
    ├── BackfillTakenOver       another process loads it now, or somebody has cancelled it
    ├── NoRoom                  a temporary file cannot be kept
    └── DemoUnavailable         the demo lacks a package or a place to run

Each carries the exit code that the command ends with (sysexits.h). A message names the thing, the cause and the mend,
and never a token, a password or a value from a body.
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """How a command ended, in the numbers of sysexits.h."""

    OK = 0
    USAGE = 64
    PARKED = 65  # or, of a backfill: lines that are no valid changes
    NO_INPUT = 66
    UNREACHABLE = 69
    INTERNAL = 70
    WORK_LEFT = 75
    REFUSED = 77
    CONFIG = 78


class CaspenSyncError(Exception):
    """Something that a person can mend. As many arguments, as many lines: a line feed in one begins none."""

    exit_code = ExitCode.INTERNAL

    @property
    def lines(self) -> tuple[str, ...]:
        """What is said to that person."""
        return self.args

    def __str__(self) -> str:
        return "\n".join(self.args)


class UsageError(CaspenSyncError):
    """The command line asks for something that is not there."""

    exit_code = ExitCode.USAGE


class ConfigError(CaspenSyncError):
    """A setting is unknown, bad or missing."""

    exit_code = ExitCode.CONFIG


class DatabaseUnreachable(CaspenSyncError):
    """Postgres cannot be reached, or cannot do it now."""

    exit_code = ExitCode.UNREACHABLE


class DatabaseRefused(CaspenSyncError):
    """Postgres answered, and said no: a right or a setting is missing."""

    exit_code = ExitCode.CONFIG


class SchemaMissing(CaspenSyncError):
    """`caspen-sync migrate` has not run, or not for this version."""

    exit_code = ExitCode.CONFIG


class SchemaTooNew(CaspenSyncError):
    """The schema is of a later version than this program."""

    exit_code = ExitCode.CONFIG


class SourceError(CaspenSyncError):
    """What a backfill reads cannot be read, or does not say what it should."""

    exit_code = ExitCode.NO_INPUT


class BackfillRefused(CaspenSyncError):
    """A backfill of that name is over, and what it had is not to be added again."""

    exit_code = ExitCode.USAGE


class BackfillTakenOver(CaspenSyncError):
    """Another process loads the backfill now, or somebody has cancelled it."""

    exit_code = ExitCode.WORK_LEFT


class NoRoom(CaspenSyncError):
    """A temporary file cannot be kept: a full disk, or a folder that may not be written to."""

    exit_code = ExitCode.UNREACHABLE


class DemoUnavailable(CaspenSyncError):
    """The demo lacks a package or a place to run."""

    exit_code = ExitCode.UNREACHABLE


# What may happen to any statement at any time, and may be better a moment later: a database that is away, or one that
# an administrator is just changing.
DATABASE_FAULTS = (DatabaseUnreachable, DatabaseRefused, SchemaMissing)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of what ended a group of tasks, the one thing that a person should hear of: an error of ours before any other."""
    error: BaseException = group.subgroup(CaspenSyncError) or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
