"""The contract, field by field, as on the API's page."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contract import UPDATE_FIELDS, AppointmentResource, AppointmentUpdate, check_update, disagreements

IDS = ["location_id", "practitioner_id", "service_id", "client_id"]
NULLABLE_IDS = ["client_package_id", "case_id", "room_id", "vehicle_id"]
TIMES = ["starts_at", "ends_at"]


def problem_of(body: object, ids: str = "integer") -> str:
    problems = check_update(body, ids=ids)  # type: ignore[arg-type]
    assert len(problems) <= 1
    return str(problems[0]) if problems else ""


def test_the_fields_are_those_of_the_page() -> None:
    """Every field of the API's page is known, and no other."""
    assert {*IDS, *NULLABLE_IDS, *TIMES, "note", "confirmed", "resource_ids"} == UPDATE_FIELDS


@pytest.mark.parametrize("field", [*NULLABLE_IDS, "note"])
def test_null_is_taken_where_the_page_allows_it(field: str) -> None:
    """null on a nullable field is sound, and stays a null in the body."""
    assert check_update({field: None}) == ()
    assert AppointmentUpdate.model_validate({field: None}).body() == {field: None}


@pytest.mark.parametrize("field", [*IDS, *TIMES, "confirmed", "resource_ids"])
def test_null_is_refused_elsewhere(field: str) -> None:
    """null on a field that is not nullable is a problem of that field."""
    assert problem_of({field: None}).startswith(f"{field}: must be")


@pytest.mark.parametrize("field", [*IDS, *NULLABLE_IDS])
@pytest.mark.parametrize("value", ["7", 7.0, True, -1, 2**63, [7], {}])
def test_ids_are_integers(field: str, value: object) -> None:
    """An id that is no integer from 0 to 2^63-1 is refused, booleans included."""
    assert problem_of({field: value}).startswith(f"{field}: must be")


def test_ids_may_be_strings_by_configuration() -> None:
    """With api.ids = "any" string ids are sound, wherever an id is asked for; without, they are not."""
    body = {"location_id": "loc_01", "room_id": None, "resource_ids": ["res_1", 2]}
    assert check_update(body, ids="any") == ()
    assert [problem.field for problem in check_update(body)] == ["location_id", "resource_ids"]
    assert problem_of({"location_id": "a b"}, ids="any").startswith("location_id")


@pytest.mark.parametrize(
    "value", ["2024-01-01T10:00:00Z", "2024-01-01T10:00:00.123456+05:30", "0001-01-01T00:00:00-00:00"]
)
def test_times_with_an_offset_are_sound(value: str) -> None:
    """ISO 8601 with an offset is sound, and is sent as it was written."""
    assert AppointmentUpdate.model_validate({"starts_at": value}).body() == {"starts_at": value}


@pytest.mark.parametrize(
    "value",
    [
        "2024-01-01T10:00:00",
        "2024-01-01",
        "2024-02-30T10:00:00Z",
        "1700000000",
        1700000000,
        "",
        "2024-01-01T10:00:00Z\n",
    ],
)
def test_other_times_are_refused(value: object) -> None:
    """A time without an offset, a date that is none, a Unix time: refused."""
    assert problem_of({"ends_at": value}).startswith("ends_at: must be")


def test_a_note_has_at_most_255_characters() -> None:
    """255 characters are sound, 256 are not; characters, not bytes."""
    assert check_update({"note": "é" * 255}) == ()
    assert problem_of({"note": "x" * 256}) == "note: must be at most 255 characters"


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_confirmed_is_a_boolean(value: object) -> None:
    """Nothing but true and false."""
    assert problem_of({"confirmed": value}) == "confirmed: must be true or false"


@pytest.mark.parametrize("body", [[], "x", None, 3, {}])
def test_a_body_is_an_object_that_says_something(body: object) -> None:
    """Anything else is a problem, and no error."""
    assert problem_of(body).startswith("changes: must")


def test_problems_name_fields_and_never_values() -> None:
    """What is wrong can be logged: it holds no value of the body."""
    secret = "Mrs Miller has the flu"
    body = {"note": [secret], "starts_at": secret, "room_id": secret, "confirmed": secret, "unheard_of": secret}
    problems = check_update(body)
    assert {problem.field for problem in problems} == set(body)
    assert secret not in " ".join(map(str, problems))


def test_unknown_answer_fields_and_statuses_are_kept() -> None:
    """The answer is read leniently: new fields survive, `status` is an open set, numbers become id strings."""
    answer = AppointmentResource.model_validate({"id": 7, "status": "teleported", "new": {"a": [1]}, "room_id": 9})
    assert (answer.id, answer.status, answer.room_id) == ("7", "teleported", "9")
    assert answer.model_extra == {"new": {"a": [1]}}


def test_disagreements_compare_instants_and_not_ids() -> None:
    """Only note, confirmed and the times are compared; times as instants, whatever their offsets."""
    answer = AppointmentResource.model_validate(
        {"id": "a", "note": None, "confirmed": True, "starts_at": "2024-01-01T10:00:00Z", "ends_at": None}
    )
    same = {"note": None, "confirmed": True, "starts_at": "2024-01-01T11:00:00+01:00", "room_id": 7}
    assert disagreements(same, answer) == ()
    other = {"note": "x", "confirmed": False, "starts_at": "2024-01-01T10:00:01Z", "ends_at": "2024-01-01T10:00:00Z"}
    assert disagreements(other, answer) == ("note", "confirmed", "starts_at", "ends_at")
    assert disagreements(other, AppointmentResource(id="a")) == ()
    edge = {"starts_at": "0001-01-01T00:00:00+05:00", "ends_at": "9999-12-31T23:59:59-05:00"}
    assert disagreements(edge, answer) == ("starts_at", "ends_at")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "note": st.none() | st.text(max_size=255),
            "room_id": st.none() | st.integers(0, 2**63 - 1),
            "confirmed": st.booleans(),
            "resource_ids": st.lists(st.integers(0, 2**63 - 1)),
        },
    ).filter(bool)
)
def test_absent_and_null_survive_every_step(changes: dict[str, object]) -> None:
    """What was written is what is sent: the same keys, the same nulls."""
    through_json = json.loads(json.dumps(changes))
    assert check_update(through_json) == ()
    assert AppointmentUpdate.model_validate(through_json).body() == changes
