"""Who speaks for which appointment, as the model knows it: rules 2 and 5."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from tests.model.wire import Request
from worker.claims import Claim
from worker.times import lease_s

# Whether a lease is over is not asked this close to its end, in seconds: the database's time is ahead by microseconds.
EDGE_S = 0.05


@dataclass(frozen=True, slots=True)
class _Lease:
    token: UUID
    ends_at: float


@dataclass(slots=True)
class Leases:
    """The newest claim of each appointment, while it is held."""

    timeout_s: float
    on_wire: list[Request]
    _held: dict[str, _Lease] = field(default_factory=dict)

    def given(self, claim: Claim, now: float) -> None:
        """A worker was given this claim just now."""
        name = claim.appointment_id
        held = self._held.get(name)
        assert held is None or held.ends_at <= now + EDGE_S, f"{name}: claimed although somebody holds it"
        for request in self.on_wire:
            if request.claim.appointment_id == name:
                assert request.over or not request.sent, f"{name}: claimed while request {request.number} is on its way"
        self._held[name] = _Lease(claim.token, now + lease_s(self.timeout_s))

    def holds(self, claim: Claim, now: float) -> bool | None:
        """Whether this claim counts; None: too close to its end to say."""
        held = self._held.get(claim.appointment_id)
        if held is None or held.token != claim.token:
            return False
        return None if abs(held.ends_at - now) < EDGE_S else now < held.ends_at

    def covers(self, claim: Claim, now: float) -> bool:
        """Whether nobody could have claimed the appointment since, as far as it was not written back meanwhile."""
        held = self._held.get(claim.appointment_id)
        return held is None or (held.token == claim.token and now <= held.ends_at)

    def settled(self, claim: Claim) -> None:
        """A worker has written this claim back."""
        held = self._held.get(claim.appointment_id)
        if held is not None and held.token == claim.token:
            del self._held[claim.appointment_id]
