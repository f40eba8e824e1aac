"""The appointments, in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from worker.contract import IdPolicy
from worker.sandbox.resource import Resource, fresh_resource, updated


class NoSuchAppointmentError(Exception):
    """The API has no appointment with this id."""


class Appointments(Mapping[str, Resource]):
    """Appointments by id. As a mapping it shows what is there and never makes anything.

    A resource that was handed out does not change: an update puts another one in its place.
    """

    def __init__(self, *, strict: bool = False, ids: IdPolicy = "integer") -> None:
        self._strict = strict
        self._ids: IdPolicy = ids
        self._resources: dict[str, Resource] = {}

    def __getitem__(self, appointment_id: str) -> Resource:
        return self._resources[appointment_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._resources)

    def __len__(self) -> int:
        return len(self._resources)

    def add(self, appointment_id: str, *, now: float = 0.0, **fields: Any) -> Resource:
        """Puts an appointment there, created at `now` (Unix seconds), with `fields` as answers write them."""
        resource = {**fresh_resource(appointment_id, now), **fields}
        self._resources[appointment_id] = resource
        return resource

    def find(self, appointment_id: str, now: float) -> Resource:
        """The appointment; made now (Unix seconds) if its id starts with `app_` and the store is not strict.

        Raises NoSuchAppointmentError.
        """
        resource = self._resources.get(appointment_id)
        if resource is not None:
            return resource
        if self._strict or not appointment_id.startswith("app_"):
            raise NoSuchAppointmentError
        return self.add(appointment_id, now=now)

    def update(self, appointment_id: str, changes: Any, now: float) -> Resource:
        """Applies an update at `now` (Unix seconds). Raises NoSuchAppointmentError and UnprocessableError."""
        resource = updated(self.find(appointment_id, now), changes, now, ids=self._ids)
        self._resources[appointment_id] = resource
        return resource

    def page(self, number: int, size: int) -> tuple[list[Resource], bool]:
        """Page `number` (from 1) in the order in which the appointments came to be, and whether another follows."""
        first = (number - 1) * size
        found = list(itertools.islice(self._resources.values(), first, first + size + 1))
        return found[:size], len(found) > size
