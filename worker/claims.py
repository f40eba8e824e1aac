"""The values that travel between the database and the wire: a claim goes out, a settlement comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from datetime import datetime
from typing import Literal
from uuid import UUID

from worker.merge import Change
from worker.records import record

Lane = Literal["live", "backfill"]
PauseKind = Literal["throttled", "down", "rejected", "refused", "manual"]
RunUpKind = Literal["down", "rejected"]
SignKind = Literal["accepted", "heard", "down", "rejected"]
NewState = Literal["synced", "parked", "discarded"] | None


@record
class Slot:
    """One permit to send one request."""

    account: str
    number: int
    free_at: datetime
    """The database's time at which it is free again by itself; also its fence, see settle.sql."""
    taken_at: float
    """By `clock.now()`, not later than the database took it."""


@record
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
    probing: PauseKind | None
    """For what the account is paused, when this request finds out whether it is welcome again."""
    pause_reason: str | None
    """What that pause began with."""
    suspect: bool
    """Whether it was turned away with its account, and the API has accepted another appointment since."""
    changes: tuple[Change, ...]
    """Pending changes in id order; empty when others dealt with them in the meantime."""
    newest_id: int
    """The newest outbox id that the queue knew of when `changes` was read."""
    unsure_ids: tuple[int, ...]
    """Of each request that may have been done unheard, the newest change."""
    slot: Slot

    @property
    def claimed_at(self) -> float:
        """By `clock.now()`, not later than the database gave the lease."""
        return self.slot.taken_at


@record
class Attempt:
    """One HTTP request, for the log."""

    change_ids: tuple[int, ...]
    started_at: float
    duration_s: float
    http_status: int | None
    outcome: str
    error: str | None


@record
class Verdict:
    """What becomes of one change."""

    change_id: int
    state: NewState
    """None: it stays pending."""
    charged: int
    error: str | None
    messages: str | None = field(default=None, repr=False)
    """What the API said to it, as JSON; see `outcome.Rejected`."""


@record
class Answer:
    """The synced state to write."""

    fields: str = field(repr=False)
    """JSON of the typed columns."""
    resource: str = field(repr=False)
    """JSON of the whole answer."""
    last_change_id: int
    set_by: Mapping[str, int]
    """Which change set each field that was sent."""


@record
class UsedSlot:
    """A slot to cool down. `answered_at` None: no request used it, it is free at once."""

    slot: Slot
    answered_at: float | None
    throttled: bool = False
    """The answer was a 429: the slot stands for a request that somebody else used up."""


@record
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
    token: str | None = None
    """Fingerprint of the token that was refused."""
    absurd_s: float | None = None
    """A wait that was asked for and is not obeyed."""


@record
class Paused:
    """A pause as it was written: what every process obeys from now on."""

    account: str
    kind: PauseKind
    reason: str
    for_s: float
    pauses: int
    """How often in a row."""
    began: bool


@record
class Sign:
    """What the outcome of one claim says of the API, apart from what becomes of the claim.

    accepted: it took an appointment. heard: it answered, and it was no failure. down: it failed. rejected: it would not
    take this, for a reason that may be everybody's.
    """

    kind: SignKind
    started_at: float
    """When the request began, by `clock.now()`."""
    told_at: float
    """When the answer came."""
    reason: str = ""
    change_ids: tuple[int, ...] = ()
    charged: int = 0


@record
class BudgetTold:
    """What an answer said of the budget, as the API counts it."""

    account: str
    limit: int | None
    remaining: int | None
    started_at: float
    """When the request began, by `clock.now()`."""


@record
class Settlement:
    """Everything that is written back for one claim."""

    claim: Claim
    upto_id: int
    """The newest outbox id that this settles; newer ones make the appointment due again at once."""
    due_in_s: float | None
    """Seconds until the appointment is due again; None: as soon as there is more to send."""
    failures: int
    part_size: int | None
    unsure_ids: tuple[int, ...]
    """As in `Claim`, from now on."""
    verdicts: tuple[Verdict, ...] = ()
    answer: Answer | None = None
    attempts: tuple[Attempt, ...] = ()
    slots: tuple[UsedSlot, ...] = ()
    turned_away: bool = False
    """Together with its account: it waits for the account, and is not the one to probe with."""
    pause: Pause | None = None
    welcome: bool = False
    """A probe went through: the account's pause is over."""
    sign: Sign | None = None
    own_fault: str | None = None
    """The rejection that was found to be the changes' own fault."""
    told: BudgetTold | None = None
    mismatches: tuple[str, ...] = ()


@record
class Written:
    """What a batch of settlements did, besides what it was to do."""

    due: tuple[Settlement, ...] = ()
    """Those whose appointment has more to send at once."""
    lost: tuple[Settlement, ...] = ()
    """Those whose lease was lost: nothing of them was written but the attempt and the slot."""
    paused: tuple[Paused, ...] = ()
    welcomed: tuple[str, ...] = ()
    """Accounts whose pause is over."""
    reinstate: tuple[tuple[str, RunUpKind], ...] = ()
    """Accounts that are paused for what went wrong in a row, and whose changes are to get back what that cost them."""
    heard_again: tuple[str, ...] = ()
    """Accounts for which the API did better than before: what was given up meanwhile may be tried again."""


def joined(parts: Sequence[Written]) -> Written:
    """What several batches did."""
    all_of = {its.name: [one for part in parts for one in getattr(part, its.name)] for its in fields(Written)}
    return Written(**{name: tuple(items) for name, items in all_of.items()})
