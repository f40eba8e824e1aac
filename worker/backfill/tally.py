"""The figures of a census, and how they add up."""

from __future__ import annotations

import enum
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

FATE_BITS = 2
ACCOUNT_BITS = 16


class Fate(enum.IntEnum):
    """What becomes of a line. Those with the second bit are not sent."""

    WHOLE = 0
    LEFT_OUT = 1
    """Newer changes have set some of its fields."""
    OUTDATED = 2
    """They have set all of them."""
    KNOWN = 3
    """The backfill has it already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountCount:
    """What there is for one account."""

    account: str
    lines: int
    """Valid ones."""
    known: int
    """Of them, those that the backfill has already."""
    left_out: int
    """Of the others, those that lose some fields to newer changes."""
    outdated: int
    """And those that lose all."""
    appointments: int
    """Of all lines."""
    requests: int
    """For the lines that are neither known nor outdated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldCount:
    """In how many lines a field is."""

    set: int
    """To a value."""
    cleared: int
    """Null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A line that says what an earlier one says, about the same appointment."""

    line: int
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """All of it."""

    accounts: tuple[AccountCount, ...]
    """By name."""
    duplicates: int
    first_duplicates: tuple[Duplicate, ...]
    """The first of them, by line."""
    fields: Mapping[str, FieldCount]
    """By name."""

    @property
    def lines(self) -> int:
        """Valid ones."""
        return sum(one.lines for one in self.accounts)

    @property
    def known(self) -> int:
        """Those that the backfill has already."""
        return sum(one.known for one in self.accounts)

    @property
    def left_out(self) -> int:
        """New lines that lose some fields to newer changes."""
        return sum(one.left_out for one in self.accounts)

    @property
    def outdated(self) -> int:
        """New lines that lose all."""
        return sum(one.outdated for one in self.accounts)

    @property
    def appointments(self) -> int:
        """Of all lines."""
        return sum(one.appointments for one in self.accounts)

    @property
    def requests(self) -> Mapping[str, int]:
        """By account."""
        return {one.account: one.requests for one in self.accounts}


class Tally:
    """The figures while they grow. Accounts go by number; the kind of a line is that and its fate."""

    def __init__(self, accounts: int, *, most_folded: int, duplicates: int) -> None:
        """`most_folded`: how many lines of an appointment one request carries. `duplicates`: how many to name."""
        self.duplicates = 0
        self._most_folded = most_folded
        self._named = duplicates
        self._last_first: list[tuple[int, int]] = []
        self._kinds: Counter[int] = Counter()
        self._appointments = [0] * accounts
        self._requests = [0] * accounts

    def add_lines(self, kinds: Sequence[int]) -> None:
        """Takes in the kind of each of some lines."""
        self._kinds.update(kinds)

    def add_duplicate(self, line: int, first: int) -> None:
        """Takes in that `line` says what `first` said."""
        self.duplicates += 1
        if len(self._last_first) < self._named:
            heapq.heappush(self._last_first, (-line, first))
        elif self._named:
            heapq.heappushpop(self._last_first, (-line, first))

    def add_appointments(self, sent: Iterable[tuple[int, int]]) -> None:
        """Takes in of each of some appointments its account, and how many of its lines are sent."""
        for account, lines in sent:
            self._appointments[account] += 1
            self._requests[account] += -(-lines // self._most_folded)

    def first_duplicates(self) -> tuple[Duplicate, ...]:
        """By line."""
        return tuple(Duplicate(line=-line, first=first) for line, first in sorted(self._last_first, reverse=True))

    def account(self, name: str, number: int) -> AccountCount:
        """Of one account."""
        lines = {fate: self._kinds[number << FATE_BITS | fate] for fate in Fate}
        return AccountCount(
            account=name,
            lines=sum(lines.values()),
            known=lines[Fate.KNOWN],
            left_out=lines[Fate.LEFT_OUT],
            outdated=lines[Fate.OUTDATED],
            appointments=self._appointments[number],
            requests=self._requests[number],
        )
