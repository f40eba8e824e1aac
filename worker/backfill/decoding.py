"""Encodings: whatever a file is written in, its lines are handed on as UTF-8.

A byte that means nothing in the file's encoding is kept as a mark, a surrogate, which is no valid UTF-8: so the line
that holds it is refused when it is looked at, and the lines beside it are not. Text in UTF-8 is passed on as it is.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from worker.backfill.opening import CHUNK_BYTES, Readable
from worker.errors import SourceError, UsageError

UTF_8 = "utf-8"

_MARK = "caspen_sync_mark"
_MARKS_FROM = 0xDC00


def known_encoding(name: str) -> str:
    """The encoding's own name. Raises UsageError for one that is none, or that is not of text."""
    try:
        found = codecs.lookup(name)
        "id,note\n".encode(name)
    except (LookupError, UnicodeError, ValueError):
        raise UsageError(
            "--encoding: is not an encoding that Python knows, such as utf-8, utf-16, latin-1 or cp1252"
        ) from None
    return UTF_8 if found.name == "utf-8-sig" else found.name


def in_utf8(stream: Readable, encoding: str, label: str) -> Iterator[bytes]:
    """The stream's text in UTF-8, some of it at a time, without a byte order mark at its beginning. Raises SourceError
    where the whole of it is in another encoding."""
    return _without_mark(stream, label) if encoding == UTF_8 else _decoded(stream, encoding, label)


def _without_mark(stream: Readable, label: str) -> Iterator[bytes]:
    first = _at_least(stream, 4)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first[:4]:
        raise SourceError(f"{label}: looks like UTF-16, not UTF-8: give --encoding utf-16")
    yield first.removeprefix(codecs.BOM_UTF8)
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _at_least(stream: Readable, size: int) -> bytes:
    """A first chunk; a pipe may give less than is asked for."""
    first = b""
    while len(first) < size and (more := stream.read(CHUNK_BYTES)):
        first += more
    return first


def _decoded(stream: Readable, encoding: str, label: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(_MARK)
    first = True
    try:
        while chunk := stream.read(CHUNK_BYTES):
            text = decoder.decode(chunk)
            yield _encoded(text.removeprefix("\ufeff") if first else text)
            first = first and not text
        yield _encoded(decoder.decode(b"", final=True))
    except (UnicodeError, ValueError, IndexError):
        raise SourceError(f"{label}: cannot be read as {encoding}; give another --encoding") from None


def _encoded(text: str) -> bytes:
    return text.encode(UTF_8, "surrogatepass")


def back_in(line: bytes, encoder: codecs.IncrementalEncoder) -> bytes:
    """A line that `in_utf8` gave, as it stood in the file, as far as that encoding can say it. `encoder` is one made
    with `encoder_back`."""
    text = line.decode(UTF_8, "surrogatepass")
    try:
        return encoder.encode(text)
    except UnicodeError:
        return encoder.encode(text.encode(UTF_8, "replace").decode(UTF_8))


def encoder_back(encoding: str) -> codecs.IncrementalEncoder:
    """What writes text in this encoding, one byte order mark at its beginning if it has any."""
    return codecs.getincrementalencoder(encoding)(_MARK)


def _mark(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes that mean nothing become marks; on the way back marks become bytes, and what cannot be said a question
    mark."""
    if isinstance(error, UnicodeDecodeError):
        return "".join(chr(_MARKS_FROM + byte) for byte in error.object[error.start : error.end]), error.end
    if isinstance(error, UnicodeEncodeError):
        numbers = [ord(char) - _MARKS_FROM for char in error.object[error.start : error.end]]
        if all(0 <= number < 256 for number in numbers):
            return bytes(numbers), error.end
        return "?" * len(numbers), error.end
    raise error


codecs.register_error(_MARK, _mark)
