"""Folding changes: many pending changes of one appointment become one request body.

Changes set absolute values, so the fold is: for each field the newest change that names it. Sending the fold leaves the
remote appointment as sending the changes one by one in id order would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.contract import IdPolicy, Problem, check_update


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One pending outbox row: what it sets, and how many requests were spent on it."""

    id: int
    changes: Any = field(repr=False)
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """The body that stands for all the changes. They must be in id order; later ones win, field by field."""
    body: dict[str, Any] = {}
    for change in changes:
        body.update(change.changes)
    return body


def halved(size: int) -> int:
    """After a refusal of `size` folded changes: how many to fold at most in the next request."""
    return max(1, size // 2)


def doubled(size: int) -> int:
    """After such a part went through, or its only change was parked: how many to try next."""
    return size * 2
