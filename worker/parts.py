"""Parts: how many changes a request folds, after the API refused more of them; and which went out together before, and
may have been done unheard. Those are not parted: a part would set back what the rest has set. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from worker.claims import Claim
from worker.merge import Change, doubled
from worker.outcome import Outcome, Rejected, Retry, Unknown

# So many requests are remembered, the newest: each may cost another one, should the API refuse what came since. Claims
# keep as many.
UNSURE_MOST = 8


def together(claim: Claim, refused: Sequence[Change]) -> int | None:
    """How many of these went out together before, and may have been done unheard; None: none of them, or all."""
    unsure = [sum([change.id <= unsure_id for change in refused]) for unsure_id in claim.unsure_ids]
    return max((size for size in unsure if 0 < size < len(refused)), default=None)


def larger(claim: Claim) -> int | None:
    """After a claim's changes are dealt with: twice as many, or all, when nothing was left out."""
    if claim.part_size is None or len(claim.changes) < claim.part_size:
        return None
    return doubled(claim.part_size)


def unsure_after(claim: Claim, sent: Sequence[Change], outcomes: Sequence[Outcome]) -> tuple[int, ...]:
    """What may have been done unheard, once requests of these changes have come to these outcomes, and none was
    accepted. What the API refuses now it has not done before either."""
    if isinstance(outcomes[-1], Rejected):
        return tuple(unsure_id for unsure_id in claim.unsure_ids if unsure_id != sent[-1].id)
    return with_unsure(claim, sent) if any(map(_maybe_done, outcomes)) else claim.unsure_ids


def with_unsure(claim: Claim, sent: Sequence[Change]) -> tuple[int, ...]:
    """What may have been done unheard, a request of these changes among it."""
    return (*claim.unsure_ids, *(change.id for change in sent[-1:] if change.id not in claim.unsure_ids))[-UNSURE_MOST:]


def unsure_beyond(claim: Claim, accepted: Sequence[Change]) -> tuple[int, ...]:
    """What is unsure still, after these changes were accepted."""
    return tuple([unsure_id for unsure_id in claim.unsure_ids if unsure_id > accepted[-1].id])


def _maybe_done(outcome: Outcome) -> bool:
    return isinstance(outcome, Unknown) or (isinstance(outcome, Retry) and 200 <= outcome.status < 300)
