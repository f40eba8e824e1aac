"""The newest reading, for those who would rather have that than wait."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import pytest

from worker.errors import DatabaseUnreachable
from worker.web import newest as module
from worker.web.newest import Newest

ASKED_S = 1.0


@dataclass(frozen=True)
class Found:
    """What was read."""

    number: int
    age_s: float = 0.0

    def later(self, seconds: float) -> Self:
        return type(self)(self.number, self.age_s + seconds)


@dataclass
class Reading:
    """Stands in for a shared reading: one that goes on for as long as the test wants."""

    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Exception | None = None
    asked: list[tuple[float, int]] = field(default_factory=list)
    forgotten: int = 0

    async def get(self, max_age_s: float, *, times: int) -> Found:
        self.asked.append((max_age_s, times))
        number = len(self.asked)
        await self.goes_on.wait()
        if self.fault is not None:
            raise self.fault
        return Found(number)

    def forget(self) -> None:
        self.forgotten += 1


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.clock, "now", made.now)
    return made


def newest(reading: Reading) -> Newest[Found]:
    return Newest(reading, max_age_s=ASKED_S, times=7)  # type: ignore[arg-type]


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Nobody waits in here: not even for a small part of LONGEST_S."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < module.LONGEST_S / 2


async def known(reading: Reading, of: Newest[Found]) -> None:
    """A reading that came to its end; the next one does not."""
    reading.goes_on.set()
    assert await of.get() == Found(1)
    reading.goes_on.clear()


async def comes_to_its_end(reading: Reading) -> None:
    """What goes on, and not the next one."""
    reading.goes_on.set()
    for _ in range(10):
        await asyncio.sleep(0)
    reading.goes_on.clear()


async def test_it_is_read_for_who_asks(clock: Clock) -> None:
    """Each asker has it read as it was asked for, and gets what was read."""
    reading = Reading()
    reading.goes_on.set()
    of = newest(reading)
    assert (await of.get(), await of.get()) == (Found(1), Found(2))
    assert reading.asked == [(ASKED_S, 7)] * 2
    assert of.fault is None
    assert clock.now_s == 1000.0


async def test_the_first_is_waited_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as is bearable, and then it is not known; whoever asks later does not wait once more, and it is there
    as soon as it was read. One reading goes on at a time."""
    monkeypatch.setattr(module, "LONGEST_S", 0.05)
    reading = Reading()
    of = newest(reading)
    assert await of.get(once_known_s=0.0) is None
    clock.now_s += 1
    assert [await of.get() for _ in range(3)] == [None] * 3
    await comes_to_its_end(reading)
    assert await of.get(once_known_s=0.0) == Found(1)
    assert len(reading.asked) == 2


async def test_who_would_not_wait_waits_for_the_first(clock: Clock) -> None:
    """Where nothing is known yet there is nothing to have instead."""
    reading = Reading()
    asyncio.get_running_loop().call_later(0.01, reading.goes_on.set)
    assert await newest(reading).get(once_known_s=0.0) == Found(1)
    assert clock.now_s == 1000.0


async def test_the_last_one_is_told_while_the_next_takes_long(clock: Clock) -> None:
    """Who rather has it than waits gets it at once, with its age; the one that goes on is told when it is there."""
    reading = Reading()
    of = newest(reading)
    await known(reading, of)
    clock.now_s += 5
    with at_once():
        assert await of.get(once_known_s=0.0) == Found(1, 5.0)
    clock.now_s += 2
    with at_once():
        assert await of.get(once_known_s=1.0) == Found(1, 7.0)
    await comes_to_its_end(reading)
    assert await of.get(once_known_s=0.0) == Found(2)


async def test_of_many_askers_one_waits(clock: Clock) -> None:
    """What is long is counted from when the reading began, and not from when each of them came."""
    reading = Reading()
    of = newest(reading)
    await known(reading, of)
    asyncio.get_running_loop().call_later(0.05, reading.goes_on.set)
    assert await of.get() == Found(2)
    reading.goes_on.clear()
    assert await of.get(once_known_s=0.0) == Found(2)
    clock.now_s += module.LONGEST_S
    with at_once():
        assert [await of.get() for _ in range(20)] == [Found(2, module.LONGEST_S)] * 20


async def test_a_fault_of_the_database(clock: Clock) -> None:
    """It is not known any more, and why is told, until it can be read again."""
    reading = Reading()
    of = newest(reading)
    await known(reading, of)
    clock.now_s += 1
    reading.fault = DatabaseUnreachable("database: gone")
    reading.goes_on.set()
    assert await of.get() is None
    assert of.fault is reading.fault
    reading.fault = None
    assert await of.get() == Found(3)
    assert of.fault is None


async def test_a_fault_of_ours() -> None:
    """It is no fault of the database, and told to whoever asked."""
    reading = Reading(fault=ZeroDivisionError())
    reading.goes_on.set()
    with pytest.raises(ZeroDivisionError):
        await newest(reading).get()


async def test_what_is_forgotten_while_it_is_waited_for(clock: Clock) -> None:
    """Who waits for it waits for what is read anew, and hears neither of the old one nor of nothing."""
    reading = Reading()
    of = newest(reading)
    asked = [asyncio.create_task(of.get()) for _ in range(2)]
    await asyncio.sleep(0)
    of.forget()
    reading.goes_on.set()
    assert await asyncio.gather(*asked) == [Found(2)] * 2
    assert (len(reading.asked), reading.forgotten, clock.now_s) == (2, 1, 1000.0)


async def test_who_goes_away(clock: Clock) -> None:
    """Takes nothing from the others."""
    reading = Reading()
    of = newest(reading)
    asked = [asyncio.create_task(of.get()) for _ in range(3)]
    await asyncio.sleep(0)
    asked[0].cancel()
    await asyncio.sleep(0)
    reading.goes_on.set()
    assert await asyncio.gather(*asked[1:]) == [Found(1)] * 2
    assert (len(reading.asked), clock.now_s) == (1, 1000.0)
