"""Lines that fit into a terminal."""

from __future__ import annotations

import pytest

from worker.cli.watch import cut


@pytest.mark.parametrize(
    ("line", "width", "left"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "abc"),
        ("", 3, ""),
        ("\x1b[31mabc\x1b[0m", 3, "\x1b[31mabc\x1b[0m"),
        ("\x1b[31mabc\x1b[0md", 3, "\x1b[31mabc\x1b[0m"),
        ("\x1b[31mabcd\x1b[0m", 3, "\x1b[31mabc\x1b[0m"),
        ("a\u65e5\u672c", 3, "a\u65e5"),
        ("a\u65e5\u672c", 4, "a\u65e5"),
        ("e\u0301e\u0301e", 2, "e\u0301e\u0301"),
    ],
)
def test_a_line_is_cut(line: str, width: int, left: str) -> None:
    """By what is seen of it: colours take no column and are ended, wide characters take two."""
    assert cut(line, width) == left
