"""Folding changes: many pending changes of one appointment become one request body.

Changes set absolute values, so the fold is: for each field the newest change that names it. Sending the fold leaves the
remote appointment as sending the changes one by one in id order would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from worker.contract import IdPolicy, Problem, check_update
from worker.records import record


@record
class Change:
    """One pending outbox row: what it sets, and how many requests were spent on it."""

    id: int
    changes: Any = field(repr=False)
    attempts: int = 0
    superseded: frozenset[str] = frozenset()
    """Fields that newer changes have set in the meantime, because this one was parked when they were sent."""
    age_s: float = 0.0
    """Since it was written, when it was claimed."""
    traceparent: str | None = field(default=None, repr=False)
    """What the writer says of where it comes from; perhaps a W3C trace context."""

    @property
    def outdated(self) -> bool:
        """Whether nothing of it is left to send."""
        return bool(self.superseded) and self.superseded >= self.changes.keys()


@record
class Breach:
    """A change that breaks the API's contract and so is never sent."""

    change: Change
    problems: tuple[Problem, ...]


def sift(changes: Iterable[Change], *, ids: IdPolicy) -> tuple[tuple[Change, ...], tuple[Breach, ...]]:
    """Parts the changes that may be sent from those that break the contract, both in the order in which they came."""
    sound: list[Change] = []
    breaches: list[Breach] = []
    for change in changes:
        problems = check_update(change.changes, ids=ids)
        if problems:
            breaches.append(Breach(change=change, problems=problems))
        else:
            sound.append(change)
    return tuple(sound), tuple(breaches)


def fold(changes: Sequence[Change]) -> dict[str, Any]:
    """The body that stands for all the changes. They must be in id order; later ones win, field by field.

    So do those that were sent before: what they have set since is left out of a change that comes after them.
    """
    return {name: change.changes[name] for change in changes for name in _to_send(change)}


def set_by(changes: Sequence[Change]) -> dict[str, int]:
    """Which change set each field of their fold."""
    return {name: change.id for change in changes for name in _to_send(change)}


def superseded(changes: Any, change_id: int, newest: Mapping[str, int]) -> frozenset[str]:
    """The fields of a change that newer ones have set; `newest` says which change set each field last."""
    if not newest or not isinstance(changes, dict):
        return frozenset()
    return frozenset(name for name in changes if newest.get(name, 0) > change_id)


def _to_send(change: Change) -> list[str]:
    return [name for name in change.changes if name not in change.superseded]


def halved(size: int) -> int:
    """After a refusal of `size` folded changes: how many to fold at most in the next request."""
    return max(1, size // 2)


def doubled(size: int) -> int:
    """After such a part went through, or its only change was parked: how many to try next."""
    return size * 2
