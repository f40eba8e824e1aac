"""Levels as journald reads them: a line's prefix, <3> for an error (sd-daemon(3)). Without, it takes all lines alike.

Only journald is sent it: elsewhere it would stand in the way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

_PRIORITIES = {"critical": 2, "exception": 3, "error": 3, "warning": 4, "info": 6, "debug": 7}


def stderr_leads_there(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether stderr is the stream to journald that systemd opened for this service."""
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or not a file at all
        return False
    return environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def prefix(level: str) -> str:
    """What a line of this level begins with."""
    return f"<{_PRIORITIES.get(level, _PRIORITIES['error'])}>"
