"""Many numbers in little memory: records of 64-bit numbers, parted by their first one, in a temporary file.

Equal first numbers meet in one part, so whoever counts takes one part at a time. The file has no name, and nobody else
can open it; the kernel deletes it when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from array import array
from collections.abc import Collection, Iterator
from typing import IO, Self

from worker.errors import NoRoom

PARTS = 256
# Numbers in memory before they go into the file: 10 MB or so of them.
KEPT = 300_000


class Spill:
    """Records of `width` numbers below 2^64. To be used as a context: then the file is gone at its end."""

    def __init__(self, width: int, *, kept: int = KEPT) -> None:
        """`kept`: how many numbers to hold in memory."""
        self._width = width
        self._most = kept
        self._held = 0
        self._parts: list[list[int]] = [[] for _ in range(PARTS)]
        self._extents: list[list[tuple[int, int]]] = [[] for _ in range(PARTS)]
        self._file: IO[bytes] | None = None
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk, again
                self._file.close()

    def add(self, records: Collection[tuple[int, ...]]) -> None:
        """Takes records in. Raises NoRoom."""
        parts = self._parts
        for record in records:
            parts[record[0] % PARTS] += record
        self._held += len(records) * self._width
        if self._held > self._most:
            self._write()

    def records(self, number: int) -> int:
        """How many there are in one part."""
        return (sum(length for _, length in self._extents[number]) + len(self._parts[number])) // self._width

    def part(self, number: int) -> Iterator[tuple[array[int], ...]]:
        """The records of one part in the order in which they came, some at a time, as columns. Raises NoRoom."""
        for offset, length in self._extents[number]:
            yield self._columns(self._read(offset, length))
        yield self._columns(array("Q", self._parts[number]))

    def _columns(self, numbers: array[int]) -> tuple[array[int], ...]:
        return tuple(numbers[column :: self._width] for column in range(self._width))

    def _write(self) -> None:
        try:
            file = self._opened()
            for number, part in enumerate(self._parts):
                if part:
                    self._extents[number].append((self._end, len(part)))
                    # Faster than an array of them would be.
                    self._end += file.write(struct.pack(f"{len(part)}Q", *part))
                    part.clear()
            file.flush()
        except OSError as error:
            raise _no_room(error) from None
        self._held = 0

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed with the context
        return self._file

    def _read(self, offset: int, length: int) -> array[int]:
        numbers = array("Q")
        try:
            self._opened().seek(offset)
            numbers.fromfile(self._opened(), length)
        except OSError as error:
            raise _no_room(error) from None
        return numbers


def _no_room(error: OSError) -> NoRoom:
    where = tempfile.tempdir or "the folder for temporary files"
    return NoRoom(
        f"{where}: a temporary file cannot be kept there: {error.strerror or type(error).__name__}; "
        "counting takes some 50 MB for each million lines, and $TMPDIR says where"
    )
