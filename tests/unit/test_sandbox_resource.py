"""What an update does to an appointment, and what exists."""

from __future__ import annotations

from typing import Any

import pytest

from worker.contract import AppointmentResource
from worker.sandbox.resource import NO_SUCH_ROOM, UnprocessableError, fresh_resource, updated
from worker.sandbox.store import Appointments, NoSuchAppointmentError

NOW = 1_700_000_000.5


def after(changes: Any, **fields: Any) -> dict[str, Any]:
    return updated({**fresh_resource("app_1", NOW), **fields}, changes, NOW + 60)


def errors_of(changes: Any) -> dict[str, list[str]]:
    with pytest.raises(UnprocessableError) as refusal:
        after(changes)
    return refusal.value.errors


def test_a_made_up_appointment_is_plausible() -> None:
    """It reads as the contract's resource, its ids look like the API's, and the same id makes the same one."""
    made = fresh_resource("app_1", NOW)
    resource = AppointmentResource.model_validate(made)
    assert str(resource.location_id).startswith("loc_")
    assert len(str(resource.location_id)) == len("loc_01HQFQ9QWTNNPY58FZ8CB3FWWK")
    assert resource.model_extra == {"updated_at": "2023-11-14T22:13:20.500000Z"}
    assert made == fresh_resource("app_1", NOW)
    assert made["client_id"] != fresh_resource("app_2", NOW)["client_id"]


def test_absent_leaves_and_null_clears() -> None:
    """Only the named fields change; null empties a field; an empty update changes nothing but its time."""
    resource = after({"note": None, "room_id": 7}, note="before", vehicle_id="veh_1")
    assert resource["note"] is None
    assert resource["room_id"] == "7"
    assert resource["vehicle_id"] == "veh_1"
    untouched = after({}, note="before")
    assert {**untouched, "updated_at": None} == {**fresh_resource("app_1", NOW), "note": "before", "updated_at": None}


def test_ids_come_back_as_strings() -> None:
    """Integer ids, those in lists included, are strings in the resource; null stays null."""
    resource = after({"client_id": 12, "resource_ids": [3, 1], "case_id": None})
    assert (resource["client_id"], resource["resource_ids"], resource["case_id"]) == ("12", ["3", "1"], None)


def test_times_are_stored_in_utc_and_give_the_duration() -> None:
    """Times are normalized to UTC, and the duration in minutes follows from both ends."""
    resource = after({"starts_at": "2024-05-01T10:00:00+02:00", "ends_at": "2024-05-01T08:45:30.5Z"})
    assert resource["starts_at"] == "2024-05-01T08:00:00Z"
    assert resource["ends_at"] == "2024-05-01T08:45:30.500000Z"
    assert resource["duration"] == 45
    assert after({"ends_at": "2024-01-01T11:00:00Z"})["duration"] == 60


def test_confirmed_at_follows_confirmed() -> None:
    """It is set when confirmed turns true, kept while it stays true, and cleared when it turns false."""
    confirmed = after({"confirmed": True})
    assert confirmed["confirmed_at"] == confirmed["updated_at"]
    again = updated(confirmed, {"confirmed": True, "note": "x"}, NOW + 120)
    assert again["confirmed_at"] == confirmed["confirmed_at"] != again["updated_at"]
    assert updated(again, {"confirmed": False}, NOW + 180)["confirmed_at"] is None


def test_breaches_of_the_contract_name_their_fields() -> None:
    """Every field that breaks the contract is named, in a sentence that does not hold its value."""
    errors = errors_of({"note": "s" * 256, "room_id": "seven", "confirmed": 1, "colour": "red"})
    assert errors == {
        "note": ["The note must be at most 255 characters."],
        "room_id": ["The room id must be an integer."],
        "confirmed": ["The confirmed must be true or false."],
        "colour": ["The colour is not a field of the API."],
    }
    assert errors_of([]) == {"changes": ["The changes must be a JSON object of plain values, at most 65536 bytes."]}


def test_an_appointment_may_not_end_before_it_starts() -> None:
    """The order of the ends is judged on what the update would leave, whichever end it moves."""
    expected = {"ends_at": ["The ends at must be a time after starts at."]}
    assert errors_of({"starts_at": "2024-01-01T10:30:00Z"}) == expected
    assert errors_of({"ends_at": "2024-01-01T10:00:00Z"}) == expected
    assert errors_of({"ends_at": "2024-01-01T11:00:00+01:00"}) == expected
    assert after({"note": "x"}, ends_at="2024-01-01T09:00:00Z")["note"] == "x"


def test_one_room_does_not_exist() -> None:
    """A well-formed id may still be refused for its meaning."""
    assert errors_of({"room_id": NO_SUCH_ROOM}) == {"room_id": ["The selected room id is invalid."]}


def test_a_time_off_the_calendar_is_refused_not_a_crash() -> None:
    """A time that keeps the contract but has no UTC equivalent is a validation error."""
    assert errors_of({"starts_at": "0001-01-01T00:00:00+05:00"}) == {
        "starts_at": ["The starts at is not a valid time."]
    }


def test_the_message_sums_up() -> None:
    """The message is the first reason, and says how many more there are."""
    for count, tail in ((1, ""), (2, " (and 1 more error)"), (3, " (and 2 more errors)")):
        error = UnprocessableError({f"field_{number}": [f"Reason {number}."] for number in range(count)})
        assert error.message == f"Reason 0.{tail}"


def test_string_ids_by_option() -> None:
    """With ids="any" the request may name ids as strings too."""
    appointments = Appointments(ids="any")
    assert appointments.update("app_1", {"room_id": "roo_1"}, NOW)["room_id"] == "roo_1"


def test_what_exists() -> None:
    """Ids that start with app_ come to be on first touch; others do not exist. In strict mode only seeded ones do."""
    appointments = Appointments()
    assert appointments.get("app_1") is None
    assert appointments.find("app_1", NOW) is appointments["app_1"]
    with pytest.raises(NoSuchAppointmentError):
        appointments.find("apt_1", NOW)

    strict = Appointments(strict=True)
    strict.add("apt_1", note="seeded")
    assert strict.find("apt_1", NOW)["note"] == "seeded"
    with pytest.raises(NoSuchAppointmentError):
        strict.update("app_1", {"note": "x"}, NOW)
    assert list(strict) == ["apt_1"]


def test_a_refused_update_changes_nothing() -> None:
    """All of an update is refused, not only its guilty field; and what was handed out earlier stays as it was."""
    appointments = Appointments()
    before = appointments.update("app_1", {"note": "kept"}, NOW)
    with pytest.raises(UnprocessableError):
        appointments.update("app_1", {"note": "lost", "room_id": NO_SUCH_ROOM}, NOW)
    assert appointments["app_1"] is before
    appointments.update("app_1", {"note": "newer"}, NOW)
    assert before["note"] == "kept"
