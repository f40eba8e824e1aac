"""What a soak is made of, by how long it is: in a short one everything that comes round does so more often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.processes import TOKEN

DAY_S = 86_400.0
SERVICES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The load and its times. Below the budget: a steady load that the budget binds would be a growing backlog."""

    minutes: float
    seed: int
    changes_per_s: float = 20.0
    appointments: int = 300
    limit: int = 120
    window_s: float = 2.0

    @property
    def seconds(self) -> float:
        return self.minutes * 60

    @property
    def every_s(self) -> float:
        """Between two samples."""
        return _within(0.5, self.seconds / 240, 5.0)

    @property
    def retention_s(self) -> float:
        """How old finished changes and attempts get. Several times over before the warm-up ends."""
        return _within(4.0, self.seconds / 24, 120.0)

    @property
    def rest_s(self) -> float:
        """Between two errands: an hour has some fifty rounds of them."""
        return _within(0.5, self.seconds / 300, 8.0)

    @property
    def postgres(self) -> Mapping[str, str]:
        """The server's settings: Postgres's own, but for how often a short soak is vacuumed."""
        naptime_s = _within(1.0, self.seconds / 60, 60.0)
        return {"fsync": "on", "shared_buffers": "128MB", "autovacuum_naptime": f"{naptime_s:.0f}s"}

    @property
    def worker(self) -> Mapping[str, str]:
        """The settings of whatever is started of caspen-sync."""
        return {
            "API__TIMEOUT_S": "5",
            "ACCOUNTS__DEFAULT__RATE_LIMIT": str(self.limit),
            "ACCOUNTS__DEFAULT__RATE_WINDOW_S": str(self.window_s),
            "ACCOUNTS__DEFAULT__RATE_GUARD_S": "0.1",
        }

    @property
    def sandbox(self) -> tuple[str, ...]:
        """The arguments of the API's stand-in."""
        return (
            *("--port", "0", "--token", TOKEN, "--seed", str(self.seed)),
            *("--limit", str(self.limit), "--window", str(self.window_s)),
            *("--latency", "0.05", "--latency-jitter", "0.04"),
            *("--fault", "http_503=0.02", "--fault", "reset_after=0.02"),
        )


def _within(least: float, value: float, most: float) -> float:
    return min(max(value, least), most)
