"""What one request came to: a closed sum type, matched where something follows from it.

Whose fault it is and what follows are two questions; the first is answered by the type, the second in `policy`.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.contract import AppointmentResource


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """Accepted, and the answer is a resource."""

    name = "synced"
    status: int
    resource: AppointmentResource
    text: str
    """The whole answer, as JSON that Postgres will take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent:
    """Not a byte of the request went out."""

    name = "not_sent"
    reason: str
    status = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Answered, but not done; or done, but the answer does not tell."""

    name = "retry"
    status: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Sent, and only silence or a gateway's answer: the API may still be working on it."""

    name = "unknown"
    reason: str
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled:
    """Too many requests on this key."""

    name = "throttled"
    status: int
    wait_s: float | None
    """As long as the answer asked for; None when it did not say."""
    reason: str = "429 too many requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The token is not accepted, or not for this."""

    name = "refused"
    status: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The API will not take this request, however often it is sent."""

    name = "rejected"
    status: int
    reason: str
    whole: bool
    """True when what was refused is the address and not the body: no part of the body would fare better."""


Outcome = Synced | NotSent | Retry | Unknown | Throttled | Refused | Rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and its outcome, with its times by `clock.now()`."""

    outcome: Outcome
    started_at: float
    ended_at: float
