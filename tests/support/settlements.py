"""Claims, requests and outcomes to settle, made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from worker.claims import Claim, PauseKind, Slot
from worker.contract import AppointmentResource
from worker.merge import Change
from worker.outcome import Exchange, NotSent, Outcome, Refused, Rejected, Retry, Synced, Throttled, Unknown
from worker.policy import Sent
from worker.times import Limits

LIMITS = Limits(
    timeout_s=30.0,
    window_s=60.0,
    backoff_base_s=2.0,
    backoff_max_s=900.0,
    max_attempts=20,
    probe_base_s=10.0,
    probe_max_s=300.0,
)

NOT_SENT = NotSent(reason="refused")
RETRY = Retry(status=503, reason="503 temporarily unavailable")
UNKNOWN = Unknown(reason="no answer within 30 s")
THROTTLED = Throttled(status=429, hints_s=(7.0,))
REFUSED = Refused(status=401, reason="401 token missing or invalid")
REJECTED = Rejected(status=422, reason="422 validation failed: room_id", whole=False)
NO_SUCH = Rejected(status=404, reason="404 no such appointment", whole=True)


def synced(**fields: Any) -> Synced:
    """Accepted, and answered with these fields."""
    resource = {"id": "app_1", **fields}
    return Synced(status=200, resource=AppointmentResource.model_validate(resource), text=json.dumps(resource))


def slot(number: int = 1, taken_at: float = 100.0) -> Slot:
    return Slot(account="default", number=number, free_at=datetime(2024, 1, 1, tzinfo=UTC), taken_at=taken_at)


def claim(
    changes: Sequence[Change],
    *,
    failures: int = 0,
    part_size: int | None = None,
    unsure_ids: tuple[int, ...] = (),
    probing: PauseKind | None = None,
    pause_reason: str | None = None,
    suspect: bool = False,
) -> Claim:
    """A claim of these changes; the queue knew of no newer one."""
    return Claim(
        account="default",
        appointment_id="app_1",
        token=UUID(int=1),
        lane="live",
        failures=failures,
        part_size=part_size,
        unsure_ids=unsure_ids,
        probing=probing,
        pause_reason=pause_reason,
        suspect=suspect,
        changes=tuple(changes),
        newest_id=changes[-1].id if changes else 77,
        slot=slot(),
    )


def notes(*ids: int, attempts: int = 0) -> tuple[Change, ...]:
    """Sound changes with these ids."""
    return tuple(Change(id=number, changes={"note": f"note {number}"}, attempts=attempts) for number in ids)


def sent(*outcomes: Outcome) -> list[Sent]:
    """Requests of one claim that came to these outcomes, a second each; each took another slot, from 1 on."""
    return [
        Sent(
            slot=slot(number, taken_at=100.0 + number),
            exchange=Exchange(outcome=outcome, started_at=100.0 + number, ended_at=100.5 + number),
        )
        for number, outcome in enumerate(outcomes, start=1)
    ]
