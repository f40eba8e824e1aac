"""AppointmentResource as the API answers it: made up for a first touch, and changed by an update. Pure functions."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.contract import IdPolicy, check_update

Resource = dict[str, Any]

# An id whose update is refused for its meaning, not for its form.
NO_SUCH_ROOM = 404404

_INSTANTS = ("starts_at", "ends_at")


class UnprocessableError(Exception):
    """The update is refused with 422. Holds field names and reasons, never a value."""

    def __init__(self, errors: Mapping[str, list[str]]) -> None:
        self.errors = dict(errors)
        reasons = [reason for field in errors.values() for reason in field]
        more = len(reasons) - 1
        self.message = reasons[0] + (f" (and {more} more error{'s' if more > 1 else ''})" if more else "")
        super().__init__(self.message)


def fresh_resource(appointment_id: str, now: float) -> Resource:
    """A plausible appointment, the same for the same id save `created_at` and `updated_at` (`now`, Unix seconds).

    It lasts from 2024-01-01 10:00 to 10:30 UTC, so an update that moves only one end may be refused.
    """

    def made_up(prefix: str) -> str:
        digest = hashlib.blake2b(f"{prefix} {appointment_id}".encode("utf-8", "surrogatepass"), digest_size=15).digest()
        return f"{prefix}_01{base64.b32encode(digest).decode()}"

    created_at = instant_text(_from_unix(now))
    return {
        "id": appointment_id,
        "location_id": made_up("loc"),
        "practitioner_id": made_up("pra"),
        "service_id": made_up("ser"),
        "client_id": made_up("cli"),
        "client_package_id": None,
        "case_id": made_up("cas"),
        "starts_at": "2024-01-01T10:00:00Z",
        "ends_at": "2024-01-01T10:30:00Z",
        "duration": 30,
        "status": "pending",
        "confirmed": False,
        "confirmed_at": None,
        "room_id": None,
        "vehicle_id": None,
        "resource_ids": [],
        "note": None,
        "cancellation_reason_id": None,
        "cancellation_note": None,
        "cancelled_at": None,
        "created_at": created_at,
        # Not in the API's page: answers may carry fields that are not documented yet.
        "updated_at": created_at,
    }


def updated(resource: Resource, changes: Any, now: float, *, ids: IdPolicy = "integer") -> Resource:
    """A new resource with the update applied at `now` (Unix seconds): absent fields stay, null clears.

    Raises UnprocessableError when the body breaks the contract or makes no sense for this appointment.
    """
    _refuse_breaches(changes, ids)
    given = {name: _stored(name, value) for name, value in changes.items()}
    merged: Resource = {**resource, **given, "updated_at": instant_text(_from_unix(now))}
    _refuse_nonsense(merged, given)
    if any(name in given for name in _INSTANTS):
        lasts = datetime.fromisoformat(merged["ends_at"]) - datetime.fromisoformat(merged["starts_at"])
        merged["duration"] = lasts // timedelta(minutes=1)
    if merged["confirmed"] is not resource["confirmed"]:
        merged["confirmed_at"] = merged["updated_at"] if merged["confirmed"] else None
    return merged


def instant_text(instant: datetime) -> str:
    """An instant in UTC as the API writes it."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _from_unix(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _refuse_breaches(changes: Any, ids: IdPolicy) -> None:
    # "No field is required", says the API's page: an empty object changes nothing. The outbox is stricter.
    if changes == {}:
        return
    errors: dict[str, list[str]] = {}
    for problem in check_update(changes, ids=ids):
        errors.setdefault(problem.field, []).append(_sentence(problem.field, problem.reason))
    if errors:
        raise UnprocessableError(errors)


def _refuse_nonsense(merged: Resource, given: Mapping[str, Any]) -> None:
    errors: dict[str, list[str]] = {}
    moved = any(name in given for name in _INSTANTS)
    if moved and datetime.fromisoformat(merged["ends_at"]) <= datetime.fromisoformat(merged["starts_at"]):
        errors["ends_at"] = [_sentence("ends_at", "must be a time after starts at")]
    if given.get("room_id") == str(NO_SUCH_ROOM):
        errors["room_id"] = ["The selected room id is invalid."]
    if errors:
        raise UnprocessableError(errors)


def _stored(name: str, value: Any) -> Any:
    """A field of the request as the answer writes it: ids as strings, instants in UTC."""
    if name in _INSTANTS:
        try:
            return instant_text(datetime.fromisoformat(value))
        except OverflowError:
            # A time at either end of the calendar that has no UTC equivalent.
            raise UnprocessableError({name: [_sentence(name, "is not a valid time")]}) from None
    if name == "resource_ids":
        return [str(item) for item in value]
    if name.endswith("_id") and value is not None:
        return str(value)
    return value


def _sentence(field: str, reason: str) -> str:
    return f"The {field.replace('_', ' ')} {reason}."
