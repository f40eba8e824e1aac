"""The API's contract: what an update may say, and what an answer holds.

Field names, types, nullability and the 255 characters come from the API's page for
`POST /appointments/{appointment}`. Nothing here looks at the network or the database.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

IdPolicy = Literal["integer", "any"]

NOTE_MAX_LENGTH = 255
# Far above any body that the contract allows but for absurd lists of resources.
BODY_MAX_BYTES = 65_536

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})", re.ASCII)
_ID_TEXT = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_INT64_MAX = 2**63 - 1
_FIELD_NAME_MAX_LENGTH = 64


def _request_id(value: object, info: ValidationInfo) -> int | str:
    """The request takes integers; clinics that only see string ids may send those, by `api.ids`."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value <= _INT64_MAX:
            return value
        raise PydanticCustomError("id_range", "must be a whole number from 0 to 2^63-1")
    policy: IdPolicy = (info.context or {}).get("ids", "integer")
    if policy == "any" and isinstance(value, str):
        if _ID_TEXT.fullmatch(value):
            return value
        raise PydanticCustomError("id_text", "must be 1 to 64 letters, digits, _ or -")
    expected = "an integer" if policy == "integer" else "an integer or a string"
    raise PydanticCustomError("id_type", "must be {expected}", {"expected": expected})


def _instant_text(value: str) -> str:
    """An instant is kept as it was written; here it only has to be one, offset included."""
    if _RFC3339.fullmatch(value):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            return value
    raise PydanticCustomError("instant", "must be an ISO 8601 time with an offset, such as 2024-01-01T10:00:00Z")


RequestId = Annotated[int | str, PlainValidator(_request_id)]
InstantText = Annotated[StrictStr, AfterValidator(_instant_text)]
NoteText = Annotated[StrictStr, StringConstraints(max_length=NOTE_MAX_LENGTH)]

# A default that no validator ever sees: an absent field is known by `model_fields_set`, not by its value.
_ABSENT: Any = Field(default=None)


class _Discreet(BaseModel):
    """A body, or an answer. Neither its repr nor its errors hold a value, for both end up in logs."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield "fields", sorted(self.model_fields_set & type(self).model_fields.keys())


class AppointmentUpdate(_Discreet):
    """One partial update. Absent fields mean "leave", null on a nullable field means "clear"."""

    model_config = ConfigDict(extra="forbid")

    location_id: RequestId = _ABSENT
    practitioner_id: RequestId = _ABSENT
    service_id: RequestId = _ABSENT
    client_id: RequestId = _ABSENT
    client_package_id: RequestId | None = _ABSENT
    case_id: RequestId | None = _ABSENT
    starts_at: InstantText = _ABSENT
    ends_at: InstantText = _ABSENT
    note: NoteText | None = _ABSENT
    confirmed: StrictBool = _ABSENT
    room_id: RequestId | None = _ABSENT
    vehicle_id: RequestId | None = _ABSENT
    resource_ids: list[RequestId] = _ABSENT

    def body(self) -> dict[str, Any]:
        """The JSON object to send: exactly the fields that were given, nulls included."""
        return self.model_dump(exclude_unset=True)


class AppointmentResource(_Discreet):
    """The API's answer. Only `id` has to be there; fields that are not documented yet are kept."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    id: str
    location_id: str | None = None
    practitioner_id: str | None = None
    service_id: str | None = None
    client_id: str | None = None
    client_package_id: str | None = None
    case_id: str | None = None
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    duration: int | None = None
    status: str | None = None
    confirmed: bool | None = None
    confirmed_at: AwareDatetime | None = None
    room_id: str | None = None
    vehicle_id: str | None = None
    resource_ids: list[str] | None = None
    note: str | None = None
    cancellation_reason_id: str | None = None
    cancellation_note: str | None = None
    cancelled_at: AwareDatetime | None = None
    created_at: AwareDatetime | None = None

    def documented(self) -> str:
        """JSON of the documented fields, as the columns of the synced state take them."""
        if self.model_extra:
            return self.model_dump_json(exclude=set(self.model_extra))
        return _DOCUMENTED.to_json(self).decode()


# What `model_dump_json` calls, without the dozen options that it passes on.
_DOCUMENTED = AppointmentResource.__pydantic_serializer__

UPDATE_FIELDS = frozenset(AppointmentUpdate.model_fields)


@dataclass(frozen=True, slots=True)
class Problem:
    """One way in which a body breaks the contract. Holds the field and a reason, never the value."""

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


def check_update(changes: object, *, ids: IdPolicy = "integer") -> tuple[Problem, ...]:
    """Every problem of one update body; empty when the body keeps the contract."""
    if not isinstance(changes, dict):
        return (Problem("changes", f"must be a JSON object of plain values, at most {BODY_MAX_BYTES} bytes"),)
    if not changes:
        return (Problem("changes", "must name at least one field"),)
    try:
        AppointmentUpdate.model_validate(changes, context={"ids": ids})
    except ValidationError as error:
        return tuple(dict.fromkeys(_problem(detail) for detail in error.errors(include_url=False, include_input=False)))
    return ()


# Path segments that a client, a proxy or a server may resolve instead of passing on.
DOT_SEGMENTS = frozenset({".", ".."})


def check_appointment_id(appointment_id: str) -> Problem | None:
    """What is wrong with an id as a part of the request's path; whatever else it holds is escaped."""
    if appointment_id in DOT_SEGMENTS:
        return Problem("appointment_id", "would change the path of the request")
    return None


# Reasons in the words of the API's page; whatever is not here keeps the validator's own words.
_REASONS = {
    "extra_forbidden": "is not a field of the API",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    "string_too_long": f"must be at most {NOTE_MAX_LENGTH} characters",
    "bool_type": "must be true or false",
    "list_type": "must be an array",
}


def _problem(detail: Any) -> Problem:
    name = str(detail["loc"][0])[:_FIELD_NAME_MAX_LENGTH] if detail["loc"] else "changes"
    return Problem(name, _REASONS.get(detail["type"], detail["msg"]))


def disagreements(sent: Mapping[str, Any], answer: AppointmentResource) -> tuple[str, ...]:
    """The fields on which an accepted answer differs from what was sent.

    Only fields that both sides write the same way are compared: request ids are integers and
    answer ids are strings, so those can never be. A field that the answer leaves out says nothing.
    """
    told = answer.model_fields_set
    return tuple(name for name in _COMPARED if name in sent and name in told and _differs(name, sent, answer))


_INSTANTS = ("starts_at", "ends_at")
_COMPARED = ("note", "confirmed", *_INSTANTS)


def _differs(name: str, sent: Mapping[str, Any], answer: AppointmentResource) -> bool:
    value = datetime.fromisoformat(sent[name]) if name in _INSTANTS else sent[name]
    return bool(value != getattr(answer, name))
