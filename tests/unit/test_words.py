"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from worker.words import counted, duration, roughly


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (0.44, "0.4s"),
        (9.99, "10.0s"),
        (10, "10s"),
        (59.6, "1m 0s"),
        (725, "12m 5s"),
        (3600, "1h 0m"),
        (356_400, "4d 3h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """Two units at most."""
    assert duration(seconds) == text


def test_counts() -> None:
    """One is not many; thousands are set apart."""
    assert [counted(number, "change") for number in (0, 1, 1204)] == ["0 changes", "1 change", "1,204 changes"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (89.5, "90 s"),
        (91, "2 min"),
        (5400, "90 min"),
        (5401, "2 h"),
        (172_800, "48 h"),
        (172_801, "3 days"),
    ],
)
def test_estimates(seconds: float, text: str) -> None:
    """One unit, and never less than it is."""
    assert roughly(seconds) == text
