"""What the model knows of the changes: which were committed, in which order, and what each of them says.

It is kept beside the database and never read from it: it is what the database is judged by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from worker.sandbox import NO_SUCH_ROOM

NULLABLE = ("note", "room_id", "vehicle_id", "case_id")
FIELDS = (*NULLABLE, "client_id", "confirmed", "resource_ids", "starts_at")


class Kind(StrEnum):
    """What is to become of a change."""

    GOOD = "good"
    BREACH = "breach"
    """Breaks the contract: is never sent."""
    REFUSED = "refused"
    """The API will not take it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row that a writer inserts."""

    appointment: str
    says: Mapping[str, Any]
    kind: Kind
    lane: str


def saying(number: int, fields: Mapping[str, bool], kind: Kind) -> dict[str, Any]:
    """A body by whose values the change of this number can be told; of `fields` those that are true are null."""
    values = {
        "note": f"n:{number}",
        "room_id": number,
        "vehicle_id": number,
        "case_id": number,
        "client_id": number,
        "confirmed": bool(number % 2),
        "resource_ids": [number],
        "starts_at": _instant(number),
    }
    says = {name: None if null and name in NULLABLE else values[name] for name, null in fields.items()}
    if kind is Kind.BREACH:
        return says | {"resource_ids": None}
    if kind is Kind.REFUSED:
        return says | {"room_id": NO_SUCH_ROOM}
    return says


def as_answered(name: str, value: Any) -> Any:
    """A value of a body as the API answers it."""
    if name == "resource_ids":
        return [str(item) for item in value]
    return str(value) if name.endswith("_id") and value is not None else value


@dataclass(slots=True)
class Ledger:
    """The committed changes, by their ids, and what people did to them."""

    committed: dict[int, Change] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    edited: set[int] = field(default_factory=set)
    discarded: set[int] = field(default_factory=set)

    def commit(self, changes: Mapping[int, Change]) -> None:
        """A transaction with these changes was committed just now."""
        for number, change in sorted(changes.items()):
            newest = self.newest[change.appointment]
            assert number > newest, f"{change.appointment}: change {number} was committed after {newest}"
            self.newest[change.appointment] = number
            self.committed[number] = change

    def edit(self, number: int, body: Mapping[str, Any]) -> None:
        """A person has mended this change."""
        self.edited.add(number)
        self.committed[number] = replace(self.committed[number], says=dict(body), kind=Kind.GOOD)

    def says(self, number: int) -> Mapping[str, Any]:
        return self.committed[number].says


def _instant(number: int) -> str:
    # Before the end that the sandbox makes up, whatever the number.
    return (datetime(2023, 1, 1, tzinfo=UTC) + timedelta(minutes=number)).isoformat().replace("+00:00", "Z")
