"""A sender without an API and without a database: requests come to what the test says, and it keeps what is asked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from tests.support.settlements import claim, notes, slot
from worker.caspen import Caspen
from worker.claims import Claim, Settlement, Slot
from worker.config import Settings
from worker.outcome import Exchange, Outcome
from worker.runtime import Runtime
from worker.sender import Delivery, Sender
from worker.store import Store
from worker.token import account_token

TIMEOUT_S = 30.0
BEGAN = 100.0  # when slots are taken, as settlements.slot has it


@dataclass
class World:
    """Stands in for client, database, clock and log: plays `outcomes` in turn and keeps what is asked of it."""

    outcomes: list[Outcome | Exception] = field(default_factory=list)
    slots: list[Slot | Exception | None] = field(default_factory=list)
    now_s: float = BEGAN
    takes_s: float = 1.0
    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    requests: list[tuple[object, str, float]] = field(default_factory=list)
    asked: list[tuple[Claim, float]] = field(default_factory=list)
    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    while_sending: Callable[[], object] = lambda: None

    def request(self, appointment_id: str, body: dict[str, Any]) -> object:
        self.bodies.append((appointment_id, body))
        return f"request {len(self.bodies)}"

    async def send(self, request: object, *, token: str, deadline: float) -> Exchange:
        self.requests.append((request, token, deadline))
        self.while_sending()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        self.now_s += self.takes_s
        return Exchange(outcome=outcome, started_at=self.now_s - self.takes_s, ended_at=self.now_s)

    async def take_slot(self, held: Claim, *, timeout_s: float) -> Slot | None:
        self.asked.append((held, timeout_s))
        taken = self.slots.pop(0) if self.slots else slot(1 + len(self.asked), taken_at=self.now_s)
        if isinstance(taken, Exception):
            raise taken
        return taken

    def now(self) -> float:
        return self.now_s

    def warning(self, event: str, **fields: Any) -> None:
        self.said.append((event, fields))

    error = warning

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)


def a_sender(
    world: World,
    *,
    stopping: asyncio.Event | None = None,
    runtime: Runtime | None = None,
    quick_attempts: int = 4,
    ids: str = "integer",
    **account: Any,
) -> Sender:
    """`account`: settings of the account."""
    settings = Settings.model_validate(
        {
            "api": {"timeout_s": TIMEOUT_S, "ids": ids},
            "accounts": {"default": {"token": "first"} | account},
            "retry": {"quick_attempts": quick_attempts, "probe_base_s": 11, "probe_max_s": 22, "max_attempts": 33},
        }
    )
    sender = Sender(
        settings,
        cast(Store, world),
        cast(Caspen, world),
        {"default": account_token("default", settings.accounts["default"])},
        stopping=stopping or asyncio.Event(),
        runtime=runtime,
        chance=random.Random(1),
        log=world,
        now=world.now,
    )
    sender._sleep = world.wait  # type: ignore[method-assign]
    return sender


async def sent(world: World, held: Claim | None = None, **of_sender: Any) -> tuple[Delivery, bool, Settlement]:
    """What became of one claim: of two notes, unless another is given."""
    sender = a_sender(world, **of_sender)
    delivery = sender.prepare(held or claim(notes(1, 2)))
    accepted = await sender.send(delivery)
    return delivery, accepted, sender.settlement(delivery)


def slots_of(delivery: Delivery) -> list[int]:
    return [one.slot.number for one in delivery.sent]
