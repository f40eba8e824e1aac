"""Everything that is known of the appointments that violations name, to be read by a person."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from tests.chaos.auditor import Violation
from tests.chaos.evidence import Evidence

_MOST = 3
_NAMED = re.compile(r"\bapp_\d+\b")


def casefile(evidence: Evidence, violations: Sequence[Violation]) -> str:
    """Of the first few appointments: what was written, what became of it, what was sent, and what the API saw."""
    named = sorted({name for violation in violations for name in _NAMED.findall(violation.what)})
    return "\n".join(line for appointment in named[:_MOST] for line in _about(evidence, appointment))


def _about(evidence: Evidence, appointment: str) -> Iterator[str]:
    yield f"--- {appointment}"
    for change in sorted(evidence.committed, key=lambda change: change.id):
        if change.appointment_id == appointment:
            guilt = f" ({change.guilt})" if change.guilt else ""
            yield f"change {change.id}{guilt}, committed at {change.committed_at:%T.%f}: {dict(change.changes)}"
    for row in evidence.outbox:
        if row["appointment_id"] == appointment:
            yield f"outbox {row['id']}: {row['state']}, attempts {row['attempts']}, {row['last_error']}"
    for row in evidence.attempts:
        if row["appointment_id"] == appointment:
            said = f"{row['outcome']} {row['http_status']} {row['error'] or ''}"
            yield f"attempt at {row['started_at']:%T.%f} of {row['change_ids']} by {row['worker']}: {said}"
    for entry in evidence.log:
        if entry.appointment == appointment:
            received = datetime.fromtimestamp(entry.received_at, UTC)
            done = datetime.fromtimestamp(entry.applied_at, UTC).strftime("%T.%f") if entry.applied_at else "never"
            what = f"{entry.http_status} {entry.fault or ''}"
            yield f"request {entry.seq} at {received:%T.%f}: {what}, applied {done}: {entry.body}"
