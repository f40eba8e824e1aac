"""Opening what a backfill reads: a file, a pipe or standard input, as it is or packed by gzip."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import select
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from worker.errors import SourceError

STDIN = "-"
GZIP_MAGIC = b"\x1f\x8b"
# Read at once. With it comes the next of the lines that are waited for, so no more of a pipe than there is.
CHUNK_BYTES = 256 * 1024


class Readable(Protocol):
    """Where chunks come from."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


class Counted:
    """What is read of the file itself, however much comes out of it unpacked."""

    def __init__(self, raw: io.FileIO) -> None:
        self.count = 0
        self._raw = raw
        self._peeked = b""
        self._ended = False

    def peek(self, size: int) -> bytes:
        """The first bytes, which are read again later; fewer where there are no more."""
        while len(self._peeked) < size and (more := self._next(size - len(self._peeked))):
            self._peeked += more
        return self._peeked

    def read(self, size: int, /) -> bytes:
        """As a file does."""
        if self._peeked:
            got, self._peeked = self._peeked[:size], self._peeked[size:]
        else:
            got = self._next(size)
        self.count += len(got)
        return got

    def _next(self, size: int) -> bytes:
        if self._ended:  # a terminal would be asked for another Ctrl-D
            return b""
        while (got := self._raw.read(size)) is None:  # somebody set our standard input not to block
            select.select([self._raw], [], [])
        self._ended = not got
        return got


class _Unpacked:
    """What comes out of gzip, as soon as it does: what is behind may be damaged, or not there yet."""

    def __init__(self, packed: Counted) -> None:
        self._file = gzip.GzipFile(fileobj=packed, mode="rb")  # type: ignore[call-overload]  # of which it only reads

    def read(self, size: int, /) -> bytes:
        unpacked: bytes = self._file.read1(size)
        return unpacked


def look_at(path: str) -> int | None:
    """How many bytes the file has, if it is one; None for standard input and for a pipe. Raises SourceError for what
    cannot be read, before anything is waited for."""
    if path == STDIN:
        return None
    with refusals(path):
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            raise SourceError(f"{path}: is a directory; name one of its files")
        if not stat.S_ISREG(found.st_mode):
            return None
        with Path(path).open("rb"):
            return found.st_size


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[Readable, Counted]]:
    """What the file holds, unpacked if need be, and how much of it was read. May wait for whoever writes a pipe. Raises
    SourceError."""
    with refusals(path):
        # Unbuffered: a read gives what there is, and whoever gives up waiting is not held up by a lock of the buffer.
        raw = io.FileIO(os.dup(0) if path == STDIN else path)
    with raw:
        counted = Counted(raw)
        with refusals(path):
            head = counted.peek(len(GZIP_MAGIC))
            if not head and path.endswith(".gz"):  # what gzip makes of nothing has 20 bytes
                raise EOFError
        if head == GZIP_MAGIC:
            yield _Unpacked(counted), counted
        elif path.endswith(".gz"):
            raise SourceError(f"{path}: is called .gz, and is not packed by gzip; give it another name")
        else:
            yield counted, counted


@contextlib.contextmanager
def refusals(path: str, at: str = "") -> Iterator[None]:
    """Turns what keeps a file from being read into a SourceError; `at`: how far it was read."""
    failed = f"{label(path)}: cannot be read{at}"
    try:
        yield
    except gzip.BadGzipFile:
        raise SourceError(f"{failed}: it is damaged, or something else follows what gzip packed") from None
    except OSError as error:
        raise SourceError(f"{failed}: {error.strerror or type(error).__name__}") from None
    except EOFError:
        raise SourceError(f"{failed}: it is cut short, gzip's end is missing") from None
    except zlib.error:
        raise SourceError(f"{failed}: it is damaged, gzip cannot unpack it") from None


def label(path: str) -> str:
    """What a person calls the file."""
    return "standard input" if path == STDIN else path
