"""The values that travel between the database and the wire: a claim goes out, a settlement comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from worker.merge import Change

Lane = Literal["live", "backfill"]
PauseKind = Literal["throttled", "refused"]
NewState = Literal["synced", "parked"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One permit to send one request."""

    account: str
    number: int
    free_at: datetime
    """The database's time at which it is free again by itself; also its fence, see settle.sql."""
    taken_at: float
    """By `clock.now()`, not later than the database took it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to speak for one appointment until the lease ends, with what there is to say."""

    account: str
    appointment_id: str
    token: UUID
    lane: Lane
    failures: int
    """Claims in a row that ended in a wait."""
    part_size: int | None
    """After a refusal: how many changes this claim folds at most."""
    probe: bool
    """Whether this request finds out if a refused account is welcome again."""
    changes: tuple[Change, ...]
    """Pending changes in id order; empty when others dealt with them in the meantime."""
    newest_id: int
    """The newest outbox id that the queue knew of when `changes` was read."""
    slot: Slot

    @property
    def claimed_at(self) -> float:
        """By `clock.now()`, not later than the database gave the lease."""
        return self.slot.taken_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One HTTP request, for the log."""

    change_ids: tuple[int, ...]
    started_at: float
    duration_s: float
    http_status: int | None
    outcome: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of one change."""

    change_id: int
    state: NewState
    """None: it stays pending."""
    charged: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The synced state to write."""

    fields: str = field(repr=False)
    """JSON of the typed columns."""
    resource: str = field(repr=False)
    """JSON of the whole answer."""
    last_change_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedSlot:
    """A slot to cool down. `answered_at` None: no request used it, it is free at once."""

    slot: Slot
    answered_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A fault of the account: nothing of it is claimed for a while."""

    account: str
    kind: PauseKind
    reason: str
    wait_s: float
    longest_s: float
    started_at: float
    """When the request began that told so, by `clock.now()`."""
    told_at: float
    """When its answer came: the wait counts from here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """Everything that is written back for one claim."""

    claim: Claim
    upto_id: int
    """The newest outbox id that this settles; newer ones make the appointment due again at once."""
    due_in_s: float | None
    """Seconds until the appointment is due again; None: as soon as there is more to send."""
    failures: int
    part_size: int | None
    verdicts: tuple[Verdict, ...] = ()
    answer: Answer | None = None
    attempts: tuple[Attempt, ...] = ()
    slots: tuple[UsedSlot, ...] = ()
    pause: Pause | None = None
    welcome: bool = False
    """A probe went through: the account's pause is over."""
    mismatches: tuple[str, ...] = ()
