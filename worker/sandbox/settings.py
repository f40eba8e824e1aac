"""The sandbox's options."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from worker.contract import IdPolicy
from worker.sandbox.faults import checked_probabilities
from worker.sandbox.throttle import ThrottleName, make_throttle

PORT_MAX = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """All options. Raises ValueError, naming the option, for a bad value. Seconds throughout."""

    host: str = "127.0.0.1"
    """Where to listen. The control side asks for no token, so another host than this one needs `allow_remote`."""
    port: int = 0
    """0: any free one."""
    allow_remote: bool = False

    tokens: tuple[str, ...] = field(default=("sandbox",), repr=False)
    """The accepted ones. Each counts its requests by itself."""
    forbidden: tuple[str, ...] = field(default=(), repr=False)
    """Tokens that are known, but answered 403. A token in both lists is forbidden."""

    limit: int = 60
    window_s: float = 60.0
    throttle: ThrottleName = "rolling"
    whole_seconds: bool = False

    latency_s: float = 0.0
    """How long each answer takes. An update takes effect half-way."""
    latency_jitter_s: float = 0.0
    """The latency varies by up to this much either way, but never below 0."""

    faults: Mapping[str, float] = field(default_factory=dict)
    """Probability by name, see `Fault`; at most 1 together."""
    slow_s: float = 35.0
    """How long a `slow` request takes; meant to be longer than the client waits."""
    late_s: float = 5.0
    """How long after the answer a `late_apply` update takes effect."""
    seed: int | None = None
    """The same seed and the same order of requests give the same faults. None: different every time."""

    strict: bool = False
    """Only `appointments` exist; otherwise any id that starts with `app_` does."""
    appointments: tuple[str, ...] = ()
    """Ids that exist from the start."""
    ids: IdPolicy = "integer"
    """What a request's id fields may be: integers, or ("any") strings too."""
    log_file: Path | None = None
    """The request log is appended here as JSON Lines, each request once it is done."""

    def __post_init__(self) -> None:
        if not self.allow_remote and not _is_loopback(self.host):
            raise ValueError("host must be a loopback address, such as 127.0.0.1, unless allow_remote is set")
        if not 0 <= self.port <= PORT_MAX:
            raise ValueError(f"port must be from 0 to {PORT_MAX}")
        for name in ("latency_s", "latency_jitter_s", "slow_s", "late_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number, 0 or more")
        if self.ids not in get_args(IdPolicy):
            raise ValueError(f"ids must be one of {', '.join(get_args(IdPolicy))}")
        # These two know best what they take.
        make_throttle(self.throttle, limit=self.limit, window_s=self.window_s)
        checked_probabilities(self.faults)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
