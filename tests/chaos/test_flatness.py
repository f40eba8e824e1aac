"""The judgement of a soak, on made-up samples of an hour."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.chaos.soak.flatness import Flat, Point, Verdict, Within, judge

EVERY_S, HOUR_S = 5.0, 3600.0
LEVEL = 70.0
MAY = Flat(share=0.05, least=3.0)

Series = Callable[[float, random.Random], float]
"""The value at a time, and chance."""


def _sampled(series: Series, *, seed: int = 1) -> list[Point]:
    chance = random.Random(seed)
    return [(nth * EVERY_S, series(nth * EVERY_S, chance)) for nth in range(int(HOUR_S / EVERY_S) + 1)]


def _judged(series: Series, rule: Flat | Within = MAY, *, seed: int = 1) -> Verdict:
    return judge(_sampled(series, seed=seed), rule)


def _noisy(_: float, chance: random.Random) -> float:
    return LEVEL + chance.gauss(0, 4)


def _sawtooth(at_s: float, chance: random.Random) -> float:
    """As dead rows between two vacuums."""
    return LEVEL + at_s % 610 / 10 + chance.gauss(0, 1)


def _spikes(_: float, chance: random.Random) -> float:
    return LEVEL * (20 if chance.random() < 0.1 else 1)


def _late_spike(at_s: float, _: random.Random) -> float:
    return LEVEL * (50 if at_s > HOUR_S - 300 else 1)


def _warming_up(at_s: float, chance: random.Random) -> float:
    return LEVEL - max(0.0, HOUR_S / 4 - at_s) / 30 + chance.gauss(0, 1)


def _levelling_off(at_s: float, chance: random.Random) -> float:
    """As memory that is a little short of its level when it begins to count."""
    return LEVEL - 40 * 0.5 ** (at_s / 250) + chance.gauss(0, 1)


def _shrinking(at_s: float, chance: random.Random) -> float:
    return LEVEL - at_s / 100 + chance.gauss(0, 1)


def _still(_at_s: float, _chance: random.Random) -> float:
    return LEVEL


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "series", [_noisy, _sawtooth, _spikes, _late_spike, _warming_up, _levelling_off, _shrinking, _still]
)
def test_what_is_flat_is_left_alone(series: Series, seed: int) -> None:
    """Noise, what comes and goes, single outliers, a warm-up and whatever shrinks are no growth."""
    assert not _judged(series, seed=seed).broken


def _leak(at_s: float, chance: random.Random) -> float:
    """16 MB in an hour, under noise of 4."""
    return LEVEL + 16 * at_s / HOUR_S + chance.gauss(0, 4)


def _leak_below_a_sawtooth(at_s: float, chance: random.Random) -> float:
    return _sawtooth(at_s, chance) + 30 * at_s / HOUR_S


def _leak_with_spikes(at_s: float, chance: random.Random) -> float:
    return _spikes(at_s, chance) + 10 * at_s / HOUR_S


def _staircase(at_s: float, _: random.Random) -> float:
    """As tables, which grow by whole steps."""
    return LEVEL + 4 * (at_s // 600)


def _leak_from_the_middle_on(at_s: float, chance: random.Random) -> float:
    return LEVEL + max(0.0, at_s - HOUR_S / 2) / 60 + chance.gauss(0, 1)


def _doubling(at_s: float, chance: random.Random) -> float:
    return LEVEL * 2 ** (at_s / HOUR_S) + chance.gauss(0, 4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "series", [_leak, _leak_below_a_sawtooth, _leak_with_spikes, _staircase, _leak_from_the_middle_on, _doubling]
)
def test_what_grows_is_found(series: Series, seed: int) -> None:
    """A leak is found below noise, among outliers, in steps, and when it begins half-way."""
    assert _judged(series, seed=seed).broken


def test_how_much_it_may_grow() -> None:
    """Within half a run, by a share of its level or by the least amount, whichever is more."""

    def growing(by: float) -> Series:
        return lambda at_s, _: 100 + by * (at_s - 3 / 8 * HOUR_S) / (HOUR_S / 2)

    assert not _judged(growing(4.9), Flat(share=0.05, least=1)).broken
    assert _judged(growing(5.1), Flat(share=0.05, least=1)).broken
    assert not _judged(growing(9.9), Flat(share=0.05, least=10)).broken
    assert _judged(growing(10.2), Flat(share=0.05, least=10)).broken


def test_what_it_tells() -> None:
    """The level, where it is in the end, the most after the warm-up, what it may and what it did."""
    found = _judged(lambda at_s, _: 1000.0 if at_s < 60 else at_s, Flat(share=0.1, least=1))
    assert (found.level, found.last, found.most) == (1347.5, 3150, 3600)
    assert found.may == "grow by 135"
    assert found.broken == "grew by 1.8e+03 in half a run"


def test_bounds_hold_for_each_sample() -> None:
    """Where there is a bound a single sample breaks it, but not in the warm-up."""

    def once(when_s: float, value: float) -> Series:
        return lambda at_s, _: value if at_s == when_s else 60.0

    assert not _judged(_still, Within(70, 70)).broken
    assert not _judged(once(100, 61), Within(60, 60)).broken
    found = _judged(once(2000, 61), Within(60, 60))
    assert (found.may, found.broken) == ("be 60", "was 61, 1 times out of 60")
    assert _judged(once(2000, 3), Within(10, 100)).broken == "was 3, 1 times out of 10 to 100"


def test_too_few_samples_are_not_judged() -> None:
    """A run that was sampled too rarely has no verdict, rather than a lucky one."""
    with pytest.raises(ValueError, match="12 samples are too few"):
        judge([(float(nth), LEVEL) for nth in range(12)], MAY)
