"""What the programs here take on their command lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def minutes(lowest: float, highest: float) -> Callable[[str], float]:
    """For argparse: a number of minutes in this range."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes from {lowest:g} to {highest:g}")
        return number

    return parse


def seed(text: str) -> int:
    """For argparse: a seed."""
    return _whole(text, 0)


def count(text: str) -> int:
    """For argparse: how many, at least one."""
    return _whole(text, 1)


def _whole(text: str, lowest: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= lowest):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {lowest} and of at most nine digits")
    return int(text)
