"""Turns on the wire: how many requests each account may have out at once, and how many claims may wait behind them.

A claim takes a while, and so does the answer to a request. So that no place on the wire is empty while the database
thinks, as many claims are made ahead as are answered during one claim: with an API that takes a fifth of a second none,
with one next door up to as many again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

# How much of what was measured last enters the averages.
SHARE = 0.2


class Wire:
    """Bounds what is on the wire, for each account and in all."""

    def __init__(self, concurrency: Mapping[str, int], *, most: int) -> None:
        """`concurrency`: most requests at once of each account. `most`: of all of them."""
        self._concurrency = concurrency
        self._most = most
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._unanswered: Counter[str] = Counter()
        self._claim_s = 0.0
        self._answer_s: float | None = None

    def shares(self, accounts: Sequence[str], *, most: int) -> dict[str, int]:
        """How many more claims to make for each of these accounts, `most` in all, the first before the last. Accounts
        with no room are left out."""
        room = min(most, self._most - self._unanswered.total())
        free = {name: more for name in accounts if (more := self._room(name)) > 0}
        if room <= 0 or not free:
            return {}
        chosen = list(free)[:room]
        share = max(1, room // len(chosen))
        return {name: min(free[name], share) for name in chosen}

    def claimed(self, counts: Mapping[str, int], seconds: float) -> None:
        """So many claims were made, by a statement that took so long."""
        self._unanswered.update(counts)
        self._claim_s += SHARE * (seconds - self._claim_s)

    async def turn(self, account: str) -> None:
        """Waits for a place on the wire. To be given back by `answered`."""
        turns = self._turns.get(account)
        if turns is None:
            turns = self._turns[account] = asyncio.Semaphore(self._concurrency[account])
        await turns.acquire()

    def answered(self, account: str, seconds: float | None) -> None:
        """The claim needs its place no longer; its answer took so long, if it had one."""
        self._turns[account].release()
        self._unanswered[account] -= 1
        if not self._unanswered[account]:
            # Nothing is kept for accounts that have nothing to do.
            del self._unanswered[account], self._turns[account]
        if seconds is not None:
            before = seconds if self._answer_s is None else self._answer_s
            self._answer_s = before + SHARE * (seconds - before)

    def open(self) -> None:
        """Lets whoever waits for a turn go on at once: they will send nothing."""
        for account, turns in self._turns.items():
            for _ in range(self._unanswered[account]):
                turns.release()

    def has_room(self, account: str) -> bool:
        """Whether there may be another claim of this account."""
        return self._unanswered.total() < self._most and self._room(account) > 0

    def _room(self, account: str) -> int:
        most = self._concurrency[account]
        ahead = 0 if not self._answer_s else int(most * min(1.0, self._claim_s / self._answer_s))
        return most + ahead - self._unanswered[account]
