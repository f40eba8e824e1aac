"""The lines that --skip-invalid leaves out, in a file from which they can be given back once they are mended.

It is written as the source was, and before each line stands a remark that says what is wrong with it, and that is
skipped when it is read again: `# line 17: note: must be at most 255 characters`.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import itertools
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Protocol

from worker.backfill.decoding import UTF_8, back_in, encoder_back
from worker.backfill.lines import REMARK
from worker.backfill.rows import Reject
from worker.errors import NoRoom, UsageError
from worker.privacy import printable

# Of a file's name, of which file systems take 255.
_NAME_MAX_BYTES = 150


class Written(Protocol):
    """How a source is written."""

    @property
    def suffix(self) -> str:
        """By which it is known how to read it: jsonl, csv or tsv."""

    @property
    def encoding(self) -> str:
        """Python's name of it."""

    @property
    def header(self) -> bytes:
        """Of CSV, in UTF-8."""


class Rejects:
    """A file beside its final place, made with the first reject, that only we can read: bodies are about patients."""

    def __init__(self, source: Written, *, name: str, path: Path | None) -> None:
        """`path`: where to; None for a name after `name`, the backfill's, in the current directory."""
        self._source = source
        self._name = name
        self._path = path
        self._file: IO[bytes] | None = None
        self._encoder = None if source.encoding == UTF_8 else encoder_back(source.encoding)

    def add(self, rejects: Iterable[Reject]) -> None:
        """Writes them down. Raises UsageError, or NoRoom, when that cannot be."""
        for reject in rejects:
            with self._refusals():
                file = self._file or self._begun()
                said = printable("; ".join(map(str, reject.problems))).encode(UTF_8, "replace")
                self._write(file, b"%b%d: %b" % (REMARK, reject.line, said))
                self._write(file, reject.raw)

    def keep(self) -> Path | None:
        """Where they are now; None if there was none. A file that is there already stays: if it holds the same it is
        the one, else the next free name is. Raises as `add` does."""
        if (file := self._file) is None:
            return None
        with self._refusals():
            file.flush()
            os.fsync(file.fileno())
            file.close()
            for place in _names(self._place()):
                if place.is_file() and filecmp.cmp(file.name, place, shallow=False):
                    self.drop()
                    return place
                with contextlib.suppress(FileExistsError):
                    # The name first, so that two who finish at once do not take the same.
                    place.touch(mode=0o600, exist_ok=False)
                    Path(file.name).replace(place)
                    self._file = None
                    return place
        raise AssertionError("there is always a next name")

    def drop(self) -> None:
        """Leaves nothing behind of what was not kept."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # the disk is full: what is in the buffer is not wanted either
                self._file.close()
            Path(self._file.name).unlink(missing_ok=True)
            self._file = None

    def _begun(self) -> IO[bytes]:
        place = self._place()
        # Such files are their owner's only.
        self._file = file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            dir=place.parent, prefix=f".{_cut(place.name)}.", suffix=".part", delete=False
        )
        if self._source.header:
            self._write(file, self._source.header)
        return file

    def _write(self, file: IO[bytes], line: bytes) -> None:
        file.write(line + b"\n" if self._encoder is None else back_in(line + b"\n", self._encoder))

    def _place(self) -> Path:
        return self._path or Path(f"{_safe(self._name)}.rejects.{self._source.suffix}")

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = NoRoom if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
            raise kind(f"--rejects {self._place()}: cannot be written: {error.strerror}") from None


def _safe(name: str) -> str:
    """A backfill's name as that of a file in the current directory."""
    return _cut(re.sub(r"[^\w.-]", "_", name).lstrip(".-")) or "backfill"


def _cut(name: str) -> str:
    return name.encode(UTF_8, "replace")[:_NAME_MAX_BYTES].decode(UTF_8, "ignore")


def _names(place: Path) -> Iterator[Path]:
    """The place itself, then year.rejects-2.csv, year.rejects-3.csv and so on."""
    yield place
    for number in itertools.count(2):
        yield place.with_name(f"{place.stem}-{number}{place.suffix}")
