"""The work, the same for every contestant: which appointments, what is sent for each, and what is answered.

Imported by the contestants' processes, whose memory is measured: it needs nothing but the standard library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

RATE_LIMIT = 2_000
"""Slots, each free again a tenth of a second after its answer."""
TOKEN = "unused"

ID_DIGITS = 26
CHANGES = {
    "note": "Patient comes ten minutes late, please keep the room",
    "room_id": 7,
    "starts_at": "2026-12-01T10:00:00Z",
}
BODY = json.dumps(CHANGES, separators=(",", ":"))

# Every field of an AppointmentResource; it agrees with what was sent.
RESOURCE = {
    "id": "app_01HQFQ9QWTNNPY58FZ8CB3FWWK",
    "location_id": "loc_01HQFQ9QWTKZ3V6Q2J8M5N7R4T",
    "practitioner_id": "pra_01HQFQ9QWTBX8C1D4F6G9H2J5K",
    "service_id": "ser_01HQFQ9QWTM3N6P9R2S5T8V1W4",
    "client_id": "cli_01HQFQ9QWTY7Z0A3B6C9D2E5F8",
    "client_package_id": None,
    "case_id": "cas_01HQFQ9QWTG1H4J7K0M3N6P9R2",
    "starts_at": "2026-12-01T10:00:00Z",
    "ends_at": "2026-12-01T10:30:00Z",
    "duration": 30,
    "status": "pending",
    "confirmed": False,
    "confirmed_at": None,
    "room_id": "7",
    "vehicle_id": None,
    "resource_ids": [],
    "note": CHANGES["note"],
    "cancellation_reason_id": None,
    "cancellation_note": None,
    "cancelled_at": None,
    "created_at": "2026-11-02T08:15:00Z",
}
ANSWER_BODY = json.dumps(RESOURCE, separators=(",", ":")).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"X-RateLimit-Limit: %d\r\nX-RateLimit-Remaining: %d\r\nContent-Length: %d\r\n\r\n"
    % (RATE_LIMIT, RATE_LIMIT - 1, len(ANSWER_BODY))
) + ANSWER_BODY


def appointment_id(number: int) -> str:
    """As long as the API's own, and counted."""
    return f"app_{number:0{ID_DIGITS}}"


@dataclass(frozen=True, slots=True)
class Given:
    """What a contestant's process is told."""

    dsn: str
    base_url: str
    concurrency: int = 64
    """Requests on the wire at once."""
    numbers: range = range(0)
    """Which appointments there are, for those who have no database to look into."""

    def variables(self) -> dict[str, str]:
        """As the process finds it in its environment."""
        return {
            "BENCH_DSN": self.dsn,
            "BENCH_BASE_URL": self.base_url,
            "BENCH_CONCURRENCY": str(self.concurrency),
            "BENCH_NUMBERS": f"{self.numbers.start} {self.numbers.stop}",
        }

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> Given:
        return cls(
            environ["BENCH_DSN"],
            environ["BENCH_BASE_URL"],
            int(environ["BENCH_CONCURRENCY"]),
            range(*map(int, environ["BENCH_NUMBERS"].split())),
        )
