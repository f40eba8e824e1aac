"""Lines out of chunks, each of bounded length."""

from __future__ import annotations

from collections.abc import Iterator

from worker.backfill.opening import refusals

# Far more than the largest body, escaped and quoted.
LINE_MAX_BYTES = 1024 * 1024
TOO_LONG = f"is longer than {LINE_MAX_BYTES} bytes (what was cut is left out)"

# Those before a reject, which say what is wrong with it. Whoever mends it need not delete them.
REMARK = b"# line "


def lines(chunks: Iterator[bytes], path: str) -> Iterator[bytes]:
    """The lines, without the line feeds between them. One that is longer than LINE_MAX_BYTES comes cut to one byte
    more. Raises SourceError, which names the line, when no more can be read."""
    count, rest = 0, b""
    while True:
        with refusals(path, f" after line {count}"):
            chunk = next(chunks, None)
        if chunk is None:
            break
        found = (rest + chunk).split(b"\n") if len(rest) <= LINE_MAX_BYTES else _past_the_cut(rest, chunk)
        rest = found.pop()
        rest = rest[: LINE_MAX_BYTES + 1]
        for line in found:
            yield line[: LINE_MAX_BYTES + 1]
        count += len(found)
    if rest:
        yield rest


def _past_the_cut(rest: bytes, chunk: bytes) -> list[bytes]:
    """The rest of a line that is too long already is left out."""
    end = chunk.find(b"\n")
    return [rest] if end < 0 else (rest + chunk[end:]).split(b"\n")


def is_remark(line: bytes) -> bool:
    """Whether this is the remark of a reject: `# line 17: note: must be ...`."""
    return line.startswith(REMARK) and line[len(REMARK) :].partition(b": ")[0].isdigit()


def is_utf8(line: bytes) -> bool:
    """Whether it is text, in the encoding that it was read in."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def invalid_in(encoding: str) -> str:
    """What is wrong with a line that is not."""
    return f"is not valid {encoding.upper()}; is it another --encoding?"
