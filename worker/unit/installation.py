"""Where this installation is: what starts it, and which folders it cannot do without."""

from __future__ import annotations

import contextlib
import os
import pwd
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import worker

COMMAND = "caspen-sync"

# A hardened service has a /tmp of its own, and sees nobody's home.
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  nothing is written there


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The program that is running now, to be started again by another user from another folder."""

    command: Sequence[str]
    """What starts it, an absolute path first."""

    folder: Path | None
    """Where it has to be started; None: anywhere."""

    parts: Sequence[Path]
    """Files and folders that it is made of."""

    for_one_user: bool
    """Whether only the user that installed it finds its modules."""


def this_one(argv0: str | None = None) -> Installation:
    """`argv0`: what this process was started as, sys.argv[0]."""
    modules = Path(worker.__file__).resolve().parents[1]
    script = Path(os.path.abspath(sys.argv[0] if argv0 is None else argv0))  # noqa: PTH100  links are kept: see below
    if script.name == COMMAND and os.access(script, os.X_OK):
        # A link, such as one to the newest release, stays one; but what a service does not see leads it nowhere.
        program = script.resolve() if hidden(script) else script
        command, folder = [str(program)], None
    else:
        program = Path(sys.executable)
        command, folder = [str(program), "-m", "worker"], None if _found_anyhow(modules) else modules
    return Installation(
        command=command,
        folder=folder,
        parts=[program, Path(sys.prefix), Path(sys.base_prefix), modules],
        for_one_user=site.ENABLE_USER_SITE is True and modules == Path(site.getusersitepackages()),
    )


def _found_anyhow(modules: Path) -> bool:
    return str(modules) in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))


def hidden(path: Path) -> bool:
    """Whether a hardened service does not see this file or folder unless it is shown to it."""
    return any(place in path.parents for place in (*HOMES, *TEMPORARY))


def to_be_shown(paths: Iterable[Path]) -> list[Path]:
    """Of these files and folders, those that have to be shown to a hardened service; none is within another."""
    wanted = {path for path in paths if hidden(path)}
    return sorted(path for path in wanted if not wanted.intersection(path.parents))


def closed_to(user: str, path: Path, *, shown: Sequence[Path] = ()) -> Path | None:
    """The first folder on the way to `path`, or itself, that the user may not enter and read; one that does not exist
    yet is in nobody's group. What is shown to a service stands in folders that anybody may enter."""
    start = next((place for place in shown if path.is_relative_to(place)), Path("/"))
    for step in (*reversed(path.parents), path):
        if step.is_relative_to(start) and not _may(user, step, 0o5 if step == path else 0o1):
            return step
    return None


def _may(user: str, path: Path, wanted: int) -> bool:
    """Whether its mode lets the user do what these bits say: 4 read, 1 enter or run."""
    try:
        stat = path.stat()
    except OSError:  # no use in guessing
        return True
    shift = 0
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(user)
        in_group = stat.st_gid in os.getgrouplist(user, entry.pw_gid)
        shift = 6 if stat.st_uid == entry.pw_uid else 3 if in_group else 0
    return stat.st_mode >> shift & wanted == wanted
