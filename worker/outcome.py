"""What one request came to: a closed sum type, matched where something follows from it.

Whose fault it is and what follows are two questions; the first is answered by the type, the second in `policy`.
"""

from __future__ import annotations

from dataclasses import field

from worker.contract import AppointmentResource
from worker.records import record


@record
class Synced:
    """Accepted, and the answer is a resource."""

    name = "synced"
    status: int
    resource: AppointmentResource = field(repr=False)
    text: str = field(repr=False)
    """The whole answer, as JSON that Postgres will take."""


@record
class NotSent:
    """Not a byte of the request went out."""

    name = "not_sent"
    reason: str
    late: bool = False
    """Nothing was in the way but the claim's end."""
    status = None


@record
class Retry:
    """Answered, but not done; or done, but the answer does not tell."""

    name = "retry"
    status: int
    reason: str


@record
class Unknown:
    """Sent, and only silence or a gateway's answer: the API may still be working on it."""

    name = "unknown"
    reason: str
    status: int | None = None


@record
class Throttled:
    """Too many requests on this key."""

    name = "throttled"
    status: int
    hints_s: tuple[float, ...] = ()
    """For how long the answer asked to wait, by each of its headers that said so; above 0, and maybe absurd."""
    reason: str = "429 too many requests"


@record
class Refused:
    """The token is not accepted, or not for this."""

    name = "refused"
    status: int
    reason: str


@record
class Rejected:
    """The API will not take this request, however often it is sent."""

    name = "rejected"
    status: int
    reason: str
    whole: bool
    """True when what was refused is the address and not the body: no part of the body would fare better."""
    messages: str | None = field(default=None, repr=False)
    """What the API said to it, as JSON that Postgres will take: `{"message": …, "errors": {field: [text, …]}}`. For a
    person's eyes only: it may quote the body."""


Outcome = Synced | NotSent | Retry | Unknown | Throttled | Refused | Rejected


@record
class Exchange:
    """One request and its outcome, with its times by `clock.now()`."""

    outcome: Outcome
    started_at: float
    ended_at: float
    limit: int | None = None
    """X-RateLimit-Limit of the answer: how many requests a window holds."""
    remaining: int | None = None
    """X-RateLimit-Remaining: how many more the API would have taken when it counted this one."""
    date_s: float | None = None
    """The Date of the answer, in Unix time: whole seconds, rounded down."""
