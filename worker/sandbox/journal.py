"""The request log: what came in, what was answered, and when it took effect.

It keeps bodies and grows without bound. It is a test tool's, not a server's.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO


class Clock:
    """Seconds that compare with `time.time()` and never run backwards: the wall clock once, then the monotonic one."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Unix time in seconds."""
        return self._offset + time.monotonic()


@dataclass(slots=True, eq=False, kw_only=True)
class Entry:
    """One request to the API. Times are Unix seconds. Not frozen: it is in the log while the request is in flight."""

    seq: int
    """From 1, in the order in which the heads of the requests came in."""
    method: str
    appointment: str | None
    token: str | None
    """`token_label` of what was sent; null when nothing was."""
    received_at: float
    """When the head was in; by this time the throttle judges."""
    answered_at: float | None = None
    """Just before the answer was written, or when the connection was given up. Null: in flight."""
    applied_at: float | None = None
    """When the update took effect, which may be after the answer. Null: it did not, or not yet."""
    body: Any = None
    """The body's JSON value; its text if it is not JSON; null if there is none."""
    http_status: int | None = None
    """Null: no answer was sent."""
    fault: str | None = None
    throttled: bool = False
    remaining: int | None = None
    """As the answer's header says; null for an unknown token."""

    @property
    def applied(self) -> bool:
        """Whether the update has taken effect by now."""
        return self.applied_at is not None

    @property
    def in_flight(self) -> bool:
        """Whether the request still waits for its answer."""
        return self.answered_at is None

    def as_line(self) -> str:
        """The entry as one line of JSON, with its line feed."""
        return json.dumps({**asdict(self), "applied": self.applied}) + "\n"


def token_label(token: str) -> str:
    """What the log writes in a token's stead: the start of its SHA-256."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:12]


class Journal:
    """The entries, and the file they go to when they are done, if there is one."""

    def __init__(self, file: Path | None = None) -> None:
        self._path = file
        self._file: TextIO | None = None
        self._entries: list[Entry] = []

    def open(self) -> None:
        """Opens the file for appending. Raises OSError."""
        if self._path is not None:
            self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Closes the file. The entries stay."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def begin(self, *, method: str, appointment: str | None, token: str | None, received_at: float) -> Entry:
        """A new entry, in flight."""
        entry = Entry(
            seq=len(self._entries) + 1, method=method, appointment=appointment, token=token, received_at=received_at
        )
        self._entries.append(entry)
        return entry

    def settle(self, entry: Entry) -> None:
        """Appends an entry that will not change any more to the file."""
        if self._file is not None:
            self._file.write(entry.as_line())
            # Whoever follows the file sees a request when it is done, not when a buffer is full.
            self._file.flush()

    def since(self, seq: int = 0) -> list[Entry]:
        """The entries after number `seq`, in order."""
        return self._entries[max(0, seq) :]
