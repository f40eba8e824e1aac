"""Spans of time and long texts, as the page tells them."""

from __future__ import annotations

import pytest

from worker.web.verdict import clipped, span


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (0.4, "0 s"),
        (4, "4 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (725, "12 min 5 s"),
        (3599.7, "1 h"),
        (3605, "1 h"),
        (10_925, "3 h 2 min"),
        (86_400, "1 d"),
        (86_700, "1 d"),
        (356_400, "4 d 3 h"),
    ],
)
def test_a_span(seconds: float, said: str) -> None:
    """Two units at most, the second only if it follows the first and is not zero; nothing is below zero."""
    assert span(seconds) == said


def test_clipped() -> None:
    """What fits is left alone, and what does not ends in an ellipsis that fits."""
    assert clipped("abc", 3) == "abc"
    assert clipped("abcd", 3) == "ab…"
