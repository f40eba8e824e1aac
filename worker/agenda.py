"""When it is worth asking which account for a claim: what arrived, what the database said, and what was settled since.

Only accounts that wait for something have an entry, so an account that has nothing to do costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from worker.claims import Settlement, Written
from worker.store import Outlook

# A claim that found nothing although something is due met rows that another worker is just claiming: ask again soon,
# and less and less soon, should something else hold those rows.
CONTENDED_MIN_S = 0.005
CONTENDED_MAX_S = 1.0

# What becomes ready one after the other is asked for together: for this share of a window a slot may wait for the next
# ones, and never for longer than that, in seconds.
TOGETHER_SHARE = 0.0005
TOGETHER_MAX_S = 0.05


@dataclass(slots=True)
class _Entry:
    """What is known of an account that waits for something."""

    ready_at: float = math.inf
    """By `clock.now()`; infinite: nothing can be claimed, as far as is known."""
    outlook: Outlook | None = None
    """What the database said last."""
    read_at: float = 0.0
    contended_s: float = CONTENDED_MIN_S


class Agenda:
    """What to do next for many accounts. Instants are by `clock.now()`."""

    def __init__(self, windows_s: dict[str, float]) -> None:
        """`windows_s`: how long a slot of each account rests."""
        self._together_s = {name: min(TOGETHER_MAX_S, TOGETHER_SHARE * s) for name, s in windows_s.items()}
        self._entries: dict[str, _Entry] = {}
        self._unread: set[str] = set()
        self._arrived: set[str] = set()

    # -- what arrived ------------------------------------------------------------------------------------------------

    def arrived(self, accounts: Iterable[str]) -> None:
        """Changes of these accounts may have been committed, or something was done to them by hand."""
        self._arrived.update(accounts)

    def take_arrived(self) -> set[str]:
        """The accounts of which that was said, once."""
        accounts, self._arrived = self._arrived, set()
        return accounts

    def take_lone_arrival(self) -> str | None:
        """The account of which that was said, once: where it is one only, and nothing is known to be in the way of a
        change that comes to it, or ahead of it."""
        if len(self._arrived) != 1:
            return None
        account = next(iter(self._arrived))
        entry = self._entries.get(account)
        if entry is not None and (
            entry.outlook is None or entry.outlook.due or entry.outlook.arrivals or entry.outlook.pause_kind is not None
        ):
            return None
        return self._arrived.pop()

    @property
    def has_arrived(self) -> bool:
        """Whether that was said of any account."""
        return bool(self._arrived)

    # -- what is worth a claim ---------------------------------------------------------------------------------------

    def ready(self, now: float) -> list[str]:
        """The accounts for which a claim is worth asking for, those first that have waited longest."""
        ready = [(entry.ready_at, name) for name, entry in self._entries.items() if entry.ready_at <= now]
        return [name for _, name in sorted(ready)]

    def is_ready(self, account: str, now: float) -> bool:
        """Whether a claim is worth asking for."""
        entry = self._entries.get(account)
        return entry is not None and entry.ready_at <= now

    def next_at(self, may: Callable[[str], bool]) -> float:
        """When the first of the accounts is ready that may have more claims; infinite: none, as far as is known."""
        return min((entry.ready_at for name, entry in self._entries.items() if may(name)), default=math.inf)

    def due(self, account: str, now: float) -> None:
        """Something of this account is due: a claim is worth asking for at once."""
        entry = self._entries.setdefault(account, _Entry())
        entry.ready_at = min(entry.ready_at, now)

    def asked(self, account: str, now: float) -> None:
        """A claim was asked for. Should there be more to claim, others come first."""
        self._entries[account].ready_at = now

    # -- what the database says --------------------------------------------------------------------------------------

    def unread(self, account: str) -> None:
        """What the database said of this account may have changed."""
        self._unread.add(account)

    def take_unread(self) -> set[str]:
        """The accounts of which that was said, once."""
        accounts, self._unread = self._unread, set()
        return accounts

    def settled(self, batch: Iterable[Settlement], written: Written, now: float) -> None:
        """Takes in what was written back. Where that makes more due, it is due; where it may have changed what the
        database said, the account is unread; after a plain success of one that waits for nothing else, neither."""
        due, lost = set(map(id, written.due)), set(map(id, written.lost))
        stirred = {*written.heard_again, *(account for account, _ in written.reinstate)}
        for settlement in batch:
            account = settlement.claim.account
            if id(settlement) in due:
                self.due(account, now)
            elif not self.is_ready(account, now) and (
                settlement.answer is None
                or settlement.claim.probing
                or id(settlement) in lost
                or account in stirred
                or self._waits(account)
            ):
                self.unread(account)

    def _waits(self, account: str) -> bool:
        """Whether the account had something to send besides what is on the wire, when it was looked at last."""
        entry = self._entries.get(account)
        return entry is not None and (entry.outlook is None or entry.outlook.due or entry.outlook.arrivals)

    def read(self, outlooks: Iterable[Outlook], now: float, *, in_vain: Collection[str] = ()) -> None:
        """Takes in what the database says. `in_vain`: the accounts for which a claim has just found nothing."""
        for outlook in outlooks:
            if not outlook.waits:
                self._entries.pop(outlook.account, None)
                continue
            entry = self._entries.setdefault(outlook.account, _Entry())
            entry.outlook, entry.read_at = outlook, now
            if outlook.ready_in_s is None:
                entry.ready_at = math.inf
            elif outlook.ready_in_s > 0:
                entry.ready_at = now + outlook.ready_in_s + self._together_s[outlook.account]
            elif outlook.account in in_vain:
                entry.ready_at = now + entry.contended_s
                entry.contended_s = min(CONTENDED_MAX_S, entry.contended_s * 2)
            else:
                entry.ready_at = now
            if outlook.account not in in_vain:
                entry.contended_s = CONTENDED_MIN_S

    def outlooks(self, now: float) -> Sequence[Outlook]:
        """What the accounts wait for that wait for anything, as of `now`."""
        return [e.outlook.later(now - e.read_at) for e in self._entries.values() if e.outlook is not None]


def one_run_waits_for(outlook: Outlook, *, longest_s: float, idle_s: float) -> bool:
    """Whether one run waits for it: for budget, but not for a backoff, a long throttle or the next probe. `longest_s`:
    how long a slot can take to be free again; `idle_s`: for how long nothing was dealt with."""
    if outlook.arrivals:
        return True
    if outlook.ready_in_s is None or not outlook.due:
        return False
    if idle_s > longest_s:
        return False  # somebody else uses the budget up, or holds what is due
    return outlook.ready_in_s <= (0 if outlook.pause_kind in ("down", "rejected", "refused") else longest_s)
