"""Quick retries: within one claim a request that failed is made again, each time by a slot of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
import structlog

from tests.support.canary import NOTE
from tests.support.claims import limits, registered, the_claim
from tests.support.database import Database
from tests.support.rawserver import RawServer, Request, Respond, answer, raw_server
from tests.support.waiting import eventually
from worker import sender as sending
from worker.caspen import Caspen
from worker.config import Settings
from worker.outcome import NotSent
from worker.sender import Delivery, Sender
from worker.store import Store
from worker.token import account_token

FINE = answer("200 OK", b'{"id": "app_1"}')
BUSY = answer("503 Service Unavailable")


def answering(*answers: bytes) -> Respond:
    """One after the other, and then the last one again."""
    left = list(answers)

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    return respond


def a_sender(store: Store, caspen: Caspen, *, stopping: asyncio.Event | None = None) -> Sender:
    settings = Settings.model_validate({"accounts": {"default": {"token": "t"}}})
    return Sender(
        settings,
        store,
        caspen,
        {"default": account_token("default", settings.accounts["default"])},
        stopping=stopping or asyncio.Event(),
        chance=random.Random(1),
        log=structlog.get_logger(),
    )


async def sent(database: Database, server: RawServer, *, slots: int = 100) -> Delivery:
    """What became of one claim."""
    store = await registered(database, limits(slots))
    await database.write("app_1", {"note": NOTE})
    async with Caspen(server.base_url, timeout_s=30) as caspen:
        sender = a_sender(store, caspen)
        delivery = sender.prepare(await the_claim(store))
        await sender.send(delivery)
    return delivery


def statuses(delivery: Delivery) -> Sequence[int | None]:
    return [one.exchange.outcome.status for one in delivery.sent]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([FINE], [200]),
        ([BUSY, FINE], [503, 200]),
        ([BUSY, BUSY, FINE], [503, 503, 200]),
        ([BUSY, BUSY, BUSY, FINE], [503, 503, 503]),
        ([answer("422 Unprocessable Entity"), FINE], [422]),
        ([BUSY, answer("429 Too Many Requests"), FINE], [503, 429]),
    ],
)
async def test_as_often_as_it_is_worth(database: Database, answers: list[bytes], expected: list[int]) -> None:
    """Up to retry.quick_attempts requests, as long as the same request may fare better. Each takes a slot, and takes it
    for its worst case before it goes out."""
    async with raw_server(answering(*answers)) as server:
        delivery = await sent(database, server)
        assert len(server.requests) == len(expected)
    assert statuses(delivery) == expected
    used = [one.slot.number for one in delivery.sent]
    assert len(set(used)) == len(expected)
    taken = await database.rows("SELECT slot FROM caspen_sync.rate_slot WHERE free_at > now() ORDER BY slot")
    assert [row["slot"] for row in taken] == sorted(used)


async def test_without_another_slot_there_is_no_retry(database: Database) -> None:
    """A budget of one request is one request."""
    async with raw_server(answering(BUSY, FINE)) as server:
        assert statuses(await sent(database, server, slots=1)) == [503]


async def test_what_was_not_sent_leaves_its_slot_to_the_next(database: Database) -> None:
    """A connection that could not be made has used nothing up: even the last slot is enough to try again."""
    async with raw_server(answering(FINE)) as server:
        pass
    delivery = await sent(database, server, slots=1)
    assert [type(one.exchange.outcome) for one in delivery.sent] == [NotSent, NotSent, NotSent]
    assert len({one.slot.number for one in delivery.sent}) == 1


async def test_a_stop_ends_the_wait_and_the_retries(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop between two requests, the second one is not made."""
    monkeypatch.setattr(sending, "QUICK_BASE_S", 1e6)
    monkeypatch.setattr(sending, "QUICK_MAX_S", 1e6)
    store = await registered(database)
    await database.write("app_1", {"note": NOTE})
    stopping = asyncio.Event()
    async with raw_server(answering(BUSY, FINE)) as server, Caspen(server.base_url, timeout_s=30) as caspen:
        sender = a_sender(store, caspen, stopping=stopping)
        delivery = sender.prepare(await the_claim(store))
        task = asyncio.create_task(sender.send(delivery))
        await eventually(lambda: delivery.sent, what="the first request is answered")
        stopping.set()
        async with asyncio.timeout(10):
            assert await task is False
        assert len(server.requests) == 1
    assert statuses(delivery) == [503]
