"""Run-ups: what failed, or was rejected, for different appointments in a row, with nothing better in between.

One that grows long enough is the fault of the API or of the account and not of the changes. Pure; the database adds up
what several processes saw.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from worker.claims import RunUpKind, Settlement, Sign


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """One appointment of a run-up: what it met, and what that cost its changes."""

    account: str
    kind: RunUpKind
    appointment_id: str
    reason: str
    change_ids: tuple[int, ...]
    charged: int
    started_at: float
    """When the first of its requests began, by `clock.now()`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a batch of settlements says of run-ups: which are over, and what went wrong since."""

    over: frozenset[tuple[str, RunUpKind]]
    setbacks: tuple[Setback, ...]


def in_a_row(settlements: Iterable[Settlement]) -> Row:
    """Reads the batch in the order in which its answers came. What a probe met is the pause's business, and no part of
    it, but for a rejection that ended the pause."""
    over: set[tuple[str, RunUpKind]] = set()
    setbacks: dict[tuple[str, RunUpKind], dict[str, Setback]] = {}
    told = [(s.sign, s) for s in settlements if s.sign and _counts(s, s.sign)]
    for sign, settlement in sorted(told, key=lambda pair: pair[0].told_at):
        account = settlement.claim.account
        for kind in _ended_by(sign):
            over.add((account, kind))
            setbacks.pop((account, kind), None)
        if sign.kind in ("down", "rejected"):
            row = setbacks.setdefault((account, sign.kind), {})
            if sign.kind == "rejected" and any(setback.reason != sign.reason for setback in row.values()):
                row.clear()
            _add(
                row,
                Setback(
                    account=account,
                    kind=sign.kind,
                    appointment_id=settlement.claim.appointment_id,
                    reason=sign.reason,
                    change_ids=sign.change_ids,
                    charged=sign.charged,
                    started_at=sign.started_at,
                ),
            )
    return Row(over=frozenset(over), setbacks=tuple(one for row in setbacks.values() for one in row.values()))


def _counts(settlement: Settlement, sign: Sign) -> bool:
    return not settlement.claim.probing or (settlement.welcome and sign.kind == "rejected")


def _ended_by(sign: Sign) -> tuple[RunUpKind, ...]:
    match sign.kind:
        case "accepted":
            return ("down", "rejected")
        case "heard" | "rejected":
            return ("down",)
        case "down":
            return ()


def _add(row: dict[str, Setback], new: Setback) -> None:
    """Of one appointment, the parts of a fold are one setback."""
    known = row.get(new.appointment_id)
    if known:
        ids = tuple(dict.fromkeys((*known.change_ids, *new.change_ids)))
        new = replace(new, change_ids=ids, charged=known.charged + new.charged, started_at=known.started_at)
    row[new.appointment_id] = new
