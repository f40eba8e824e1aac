"""Which call a request is, and carrying it out on the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from urllib.parse import unquote

from worker.sandbox.resource import UnprocessableError
from worker.sandbox.store import Appointments, NoSuchAppointmentError
from worker.sandbox.wire import OK, Answer, problem

API_PATH = "/v1"
PAGE_SIZE = 25
PAGE_SIZE_MAX = 100

_PAGE_MAX = 10**9


class Action(Enum):
    """What a request asks for."""

    UPDATE = auto()
    READ = auto()
    LIST = auto()
    WRONG_METHOD = auto()
    NOWHERE = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """What a request asks for, and of which appointment."""

    action: Action
    appointment: str | None = None


NOT_JSON = object()
"""Stands for a body that is not JSON."""


def find_route(method: str, raw_path: str) -> Route:
    """The call behind a path as it came over the wire.

    The path is split before it is decoded: an id with a slash in it, written %2F, stays one id. An empty id is
    an id nobody has, not the list.
    """
    match raw_path.removeprefix(f"{API_PATH}/").split("/"):
        case ["appointments"]:
            return Route(Action.LIST if method == "GET" else Action.WRONG_METHOD)
        case ["appointments", quoted]:
            try:
                appointment = unquote(quoted, errors="strict")
            except UnicodeDecodeError:
                return Route(Action.NOWHERE)
            actions = {"POST": Action.UPDATE, "GET": Action.READ}
            return Route(actions.get(method, Action.WRONG_METHOD), appointment)
        case _:
            return Route(Action.NOWHERE)


def read_body(raw: bytes) -> Any:
    """The body's JSON value, or NOT_JSON."""
    try:
        return _STRICT_JSON.decode(raw.decode())
    except (ValueError, RecursionError):
        return NOT_JSON


def update(appointments: Appointments, appointment_id: str, body: Any, now: float) -> Answer:
    """Applies an update at `now` (Unix seconds). The update took effect exactly if the answer is a 200."""
    try:
        if body is NOT_JSON:
            appointments.find(appointment_id, now)
            return problem(400, "The body is not JSON.")
        return Answer(OK, appointments.update(appointment_id, body, now))
    except NoSuchAppointmentError:
        return problem(404, "No such appointment.")
    except UnprocessableError as error:
        return problem(422, error.message, errors=error.errors)


def read(appointments: Appointments, appointment_id: str, now: float) -> Answer:
    """The appointment, or 404."""
    try:
        return Answer(OK, appointments.find(appointment_id, now))
    except NoSuchAppointmentError:
        return problem(404, "No such appointment.")


def list_page(appointments: Appointments, query: Mapping[str, str], url: str) -> Answer:
    """One page by `page` (from 1) and `per_page`; `url` is the list's own, for the links."""
    number = _whole_number(query.get("page", "1"), _PAGE_MAX)
    size = _whole_number(query.get("per_page", str(PAGE_SIZE)), PAGE_SIZE_MAX)
    errors = {}
    if number is None:
        errors["page"] = ["The page must be a whole number, 1 or more."]
    if size is None:
        errors["per_page"] = [f"The per page must be a whole number from 1 to {PAGE_SIZE_MAX}."]
    if number is None or size is None:
        error = UnprocessableError(errors)
        return problem(422, error.message, errors=error.errors)

    data, more = appointments.page(number, size)

    def link(page: int) -> str:
        return f"{url}?page={page}&per_page={size}"

    links = {"prev": link(number - 1) if number > 1 else None, "next": link(number + 1) if more else None}
    return Answer(OK, {"data": data, "links": links})


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# Python's own reading of JSON takes NaN and Infinity; the API would not.
_STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def _whole_number(text: str, highest: int) -> int | None:
    # The length first: reading a number of a million digits takes its time.
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(highest))):
        return None
    return number if 1 <= (number := int(text)) <= highest else None
