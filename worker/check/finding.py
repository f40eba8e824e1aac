"""What one look found."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from worker.errors import CaspenSyncError, ExitCode


class Verdict(enum.StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    """It works; it would be better otherwise, or may not work for long."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It could not be looked at, or nobody asked for it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing by its name, which is stable, and how it is."""

    name: str
    verdict: Verdict
    said: str
    """One sentence."""
    mend: str | None = None
    exit_code: ExitCode = ExitCode.OK
    """What the command ends with, if nothing is worse."""


def ok(name: str, said: str) -> Finding:
    """All is well."""
    return Finding(name, Verdict.OK, said)


def warning(name: str, said: str, mend: str) -> Finding:
    """It works, but."""
    return Finding(name, Verdict.WARNING, said, mend)


def failed(name: str, said: str, mend: str, exit_code: ExitCode = ExitCode.CONFIG) -> Finding:
    """The worker will not do with this."""
    return Finding(name, Verdict.FAILED, said, mend, exit_code)


def skipped(name: str, why: str) -> Finding:
    """Not looked at."""
    return Finding(name, Verdict.SKIPPED, why)


def told_by(name: str, error: CaspenSyncError, otherwise: str) -> Finding:
    """What an error says: the thing, the cause, and after the first semicolon the mend, or else `otherwise`."""
    said, _, mend = str(error).removeprefix("database: ").partition("; ")
    return failed(name, said, mend or otherwise, error.exit_code)


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def toml_key(name: str) -> str:
    """A name as a key of config.toml, quoted where it has to be."""
    if _BARE_KEY.fullmatch(name):
        return name
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


_WORST_FIRST = (ExitCode.CONFIG, ExitCode.UNREACHABLE, ExitCode.REFUSED)


def exit_code(findings: Sequence[Finding]) -> ExitCode:
    """That of the worst that failed; 0 when nothing did."""
    codes = {finding.exit_code for finding in findings if finding.verdict is Verdict.FAILED}
    return next((code for code in _WORST_FIRST if code in codes), ExitCode.OK)
