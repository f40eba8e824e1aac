"""Places on the wire: how many requests each account may have out at once, and which claims wait for a place.

A claim takes a while, and so does the answer to a request. So that no place is empty while the database thinks, as many
claims are made ahead as are answered during one claim: with an API that takes a fifth of a second none, with one next
door up to as many again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from worker.sender import Delivery

# Most claims of one statement: more cost as much each, and hold up what comes next.
CLAIMS_AT_ONCE = 256
# Most requests of one process: each has a connection of its own.
MOST_ON_THE_WIRE = 1000
# How much of what was measured last enters the averages.
SHARE = 0.2


class Wire:
    """Bounds what is on the wire, for each account and in all; keeps nothing for accounts that have nothing there."""

    def __init__(self, concurrency: Mapping[str, int], *, most: int) -> None:
        """`concurrency`: most requests at once of each account. `most`: of all of them."""
        self._concurrency = concurrency
        self._most = most
        self._waiting: dict[str, deque[Delivery]] = {}
        self._taken: Counter[str] = Counter()
        self._all_claims = 0
        self._open = False
        self._claim_s = 0.0
        self._answer_s: float | None = None

    # -- how many more to claim --------------------------------------------------------------------------------------

    def shares(self, accounts: Sequence[str], *, most: int) -> dict[str, int]:
        """How many more claims to make for each of these accounts, `most` in all, the first before the last. Accounts
        with no room are left out."""
        room = min(most, self._most - self._all_claims)
        free = {name: more for name in accounts if (more := self._room(name)) > 0}
        if room <= 0 or not free:
            return {}
        chosen = list(free)[:room]
        share = max(1, room // len(chosen))
        return {name: min(free[name], share) for name in chosen}

    def has_room(self, account: str) -> bool:
        """Whether there may be another claim of this account."""
        return self._all_claims < self._most and self._room(account) > 0

    def claimed_within(self, seconds: float) -> None:
        """A statement that claims took so long."""
        self._claim_s += SHARE * (seconds - self._claim_s)

    # -- places ------------------------------------------------------------------------------------------------------

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Lets claims wait for a place."""
        for delivery in deliveries:
            self._waiting.setdefault(delivery.claim.account, deque()).append(delivery)
            self._all_claims += 1

    def enter(self, account: str) -> Delivery | None:
        """Takes a place for the claim that has waited longest; None: no place is free, or no claim waits."""
        free = self._open or self._taken[account] < self._concurrency[account]
        if not free or account not in self._waiting:
            return None
        self._taken[account] += 1
        return self._next(account)

    def go_on(self, account: str, answered_s: float) -> Delivery | None:
        """The request in a place was answered after so long: the claim that takes its place; None: it is free now."""
        before = answered_s if self._answer_s is None else self._answer_s
        self._answer_s = before + SHARE * (answered_s - before)
        self._all_claims -= 1
        if account in self._waiting:
            return self._next(account)
        self._leave(account)
        return None

    def leave(self, account: str) -> None:
        """A place is free, though nothing was learnt of answers."""
        self._all_claims -= 1
        self._leave(account)

    def open(self) -> Sequence[str]:
        """From now on there is a place for every claim, since none will be sent. Returns the accounts of those that
        wait."""
        self._open = True
        return list(self._waiting)

    def _next(self, account: str) -> Delivery:
        waiting = self._waiting[account]
        delivery = waiting.popleft()
        if not waiting:
            del self._waiting[account]
        return delivery

    def _leave(self, account: str) -> None:
        self._taken[account] -= 1
        if not self._taken[account]:
            del self._taken[account]

    def _room(self, account: str) -> int:
        most = self._concurrency[account]
        ahead = 0 if not self._answer_s else int(most * min(1.0, self._claim_s / self._answer_s))
        return most + ahead - self._taken[account] - len(self._waiting.get(account, ()))
