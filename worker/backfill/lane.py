"""What the backfill lane of one account gets of its budget, and when its requests go out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.claims import PauseKind
from worker.config import AccountSettings

# Before the first answer nobody knows how long they take. Beside a window of a minute it hardly counts.
ASSUMED_ANSWER_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One account's, as it is now. Counts are of requests."""

    slots: int
    window_s: float
    guard_s: float
    reserve: int
    at_once: int
    """On the wire at the most, in all processes together."""
    measured: bool = False
    held_back: int = 0
    free: int | None = None
    """Of the slots that are not held back; None: all of them."""
    free_in_s: Sequence[float] | None = None
    """When each of those is, soonest first; None: not known of each."""
    live: float = 0.0
    """What live changes use of the budget until a slot comes round again."""
    looked_back_s: float = 0.0
    before: int = 0
    """Live ones that are due."""
    backfill: int = 0
    """In the lane, due or backing off."""
    answer_s: float = ASSUMED_ANSWER_S
    answer_assumed: bool = True
    pause_kind: PauseKind | None = None
    pause_reason: str | None = None
    paused_for_s: float | None = None

    @classmethod
    def configured(cls, settings: AccountSettings) -> Lane:
        """By the configuration alone."""
        return cls(
            slots=settings.rate_limit,
            window_s=settings.rate_window_s,
            guard_s=settings.rate_guard_s,
            reserve=math.floor(settings.rate_limit * settings.live_reserve),
            at_once=settings.concurrency,
        )

    @classmethod
    def of(cls, settings: AccountSettings, row: Mapping[str, Any], live_use: Mapping[str, Any]) -> Lane:
        """By the configuration, a row of backfill_lane and one of backfill_live_use."""
        slots = min(settings.rate_limit, row["told_limit"] or settings.rate_limit)
        answer_s = row["answer_s"]
        round_s = settings.rate_window_s + settings.rate_guard_s + (answer_s or 0.0)
        return cls(
            slots=slots,
            window_s=settings.rate_window_s,
            guard_s=settings.rate_guard_s,
            reserve=math.floor(slots * settings.live_reserve),
            at_once=settings.concurrency * max(1, row["workers"]),
            measured=True,
            held_back=row["held_back"],
            free=row["free"] if row["registered"] else None,
            free_in_s=row["free_in_s"],
            live=live_use["requests"] / max(live_use["reach_s"], round_s) * round_s,
            looked_back_s=live_use["reach_s"],
            before=row["live_due"],
            backfill=row["backfill_due"],
            answer_s=ASSUMED_ANSWER_S if answer_s is None else answer_s,
            answer_assumed=answer_s is None,
            pause_kind=row["pause_kind"],
            pause_reason=row["pause_reason"],
            paused_for_s=row["paused_for_s"],
        )

    @property
    def round_s(self) -> float:
        """Until a slot comes round again."""
        return self.window_s + self.guard_s + self.answer_s

    @property
    def beside_reserve(self) -> int:
        """Slots that backfill may take while there is nothing live."""
        return max(0, self.slots - self.held_back - self.reserve)

    @property
    def per_round(self) -> float:
        """Requests of the lane until a slot comes round again."""
        on_the_wire = self.at_once * self.round_s / max(self.answer_s, 1e-3)
        return max(0.0, min(self.beside_reserve - self.live, on_the_wire))

    @property
    def per_minute(self) -> float:
        """Requests of the lane."""
        return self.per_round / self.round_s * 60

    def sent_in_s(self, nth: int) -> float | None:
        """When the `nth` request of the lane is answered, in seconds; None: the lane gets nothing."""
        if self.per_round <= 0:
            return None
        # Live changes take some of the slots as they come round, so it has to wait for more of them.
        turns = max(0, math.ceil(nth * self.beside_reserve / self.per_round) - 1)
        rounds, place = divmod(turns, self.beside_reserve)
        return self._free_in_s(place) + rounds * self.round_s + self.answer_s

    def _free_in_s(self, place: int) -> float:
        """When the slot at this place behind the reserve is free, soonest first."""
        if self.free_in_s is not None and self.reserve + place < len(self.free_in_s):
            # A slot on the wire stands at its worst case; it rests from the answer on, which is soon.
            return min(self.free_in_s[self.reserve + place], self.round_s)
        free = self.beside_reserve if self.free is None else max(0, self.free - self.reserve)
        if place < free:
            return 0.0
        return (place - free + 1) / (self.beside_reserve - free) * self.round_s
