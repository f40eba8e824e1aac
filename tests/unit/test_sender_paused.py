"""What was claimed before its account was paused, and has not gone out yet."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any, cast

import pytest
import structlog

from tests.support import settlements
from worker import clock
from worker import sender as module
from worker.caspen import Caspen
from worker.claims import Claim
from worker.config import Settings
from worker.outcome import Exchange
from worker.sender import Sender
from worker.store import Store
from worker.token import account_token


class Counting:
    """In the place of the client: counts what it is asked to send."""

    requests = 0

    def request(self, *_: Any) -> object:
        return object()

    async def send(self, *_: Any, **__: Any) -> None:
        self.requests += 1
        raise ConnectionError


def sender(client: Counting) -> Sender:
    settings = Settings.model_validate({"accounts": {"default": {"token": "t"}}})
    tokens = {"default": account_token("default", settings.accounts["default"])}
    return Sender(
        settings,
        cast(Store, None),
        cast(Caspen, client),
        tokens,
        stopping=asyncio.Event(),
        chance=random.Random(1),
        log=structlog.get_logger(),
    )


def claimed(*, probing: bool = False) -> Claim:
    claim = settlements.claim(settlements.notes(1), probing="down" if probing else None)
    return replace(claim, slot=settlements.slot(taken_at=clock.now()))


async def test_it_is_given_back() -> None:
    """Nothing of it goes out, nobody is charged, and the slot is free again."""
    client = Counting()
    sending = sender(client)
    delivery = sending.prepare(claimed())
    sending.paused("default")
    assert not await sending.send(delivery)
    settled = sending.settlement(delivery)
    assert (client.requests, settled.attempts, settled.verdicts, settled.due_in_s) == (0, (), (), 0.0)
    assert [used.answered_at for used in settled.slots] == [None]


class Unreachable(Counting):
    """Nothing can be sent, and after the first try the account is paused."""

    sender: Sender

    async def send(self, *_: Any, **__: Any) -> Exchange:  # type: ignore[override]
        self.requests += 1
        self.sender.paused("default")
        return Exchange(outcome=settlements.NOT_SENT, started_at=clock.now(), ended_at=clock.now())


@pytest.mark.parametrize(("probing", "requests"), [(False, 1), (True, 3)])
async def test_it_is_not_tried_again(probing: bool, requests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be sent has its slot still, so its next try asks the database nothing that would tell of the
    pause. A probe is tried again: the pause waits for it."""
    monkeypatch.setattr(module, "QUICK_BASE_S", 0.0)
    client = Unreachable()
    client.sender = sending = sender(client)
    delivery = sending.prepare(claimed(probing=probing))
    assert not await sending.send(delivery)
    assert client.requests == requests
    assert [used.answered_at for used in sending.settlement(delivery).slots] == [None]


async def test_a_probe_goes_out_and_so_does_what_is_claimed_later() -> None:
    """A pause holds up what was claimed before it, but not the request that is to end it."""
    client = Counting()
    sending = sender(client)
    probe = sending.prepare(claimed(probing=True))
    sending.paused("default")
    await sending.send(probe)
    assert client.requests == 1
    later = claimed()
    await sending.send(sending.prepare(replace(later, slot=replace(later.slot, taken_at=clock.now() + 1.0))))
    assert client.requests == 2
