"""How many claims there may be of which account."""

from __future__ import annotations

import asyncio

import pytest

from worker.wire import Wire


async def answered(wire: Wire, account: str, seconds: float | None = None) -> None:
    await wire.turn(account)
    wire.answered(account, seconds)


def test_an_account_has_no_more_than_its_own_and_all_no_more_than_the_process() -> None:
    """What is unanswered counts, of this account and of all."""
    wire = Wire({"a": 3, "b": 8}, most=9)
    assert wire.shares(["a", "b"], most=100) == {"a": 3, "b": 4}
    wire.claimed({"a": 3, "b": 4}, 0.01)
    assert wire.shares(["a", "b"], most=100) == {"b": 2}
    wire.claimed({"b": 2}, 0.01)
    assert wire.shares(["b"], most=100) == {}
    assert not wire.has_room("b")


def test_what_there_is_room_for_is_shared_alike() -> None:
    """With less room than accounts, those that come first get one each."""
    wire = Wire(dict.fromkeys("abcdef", 8), most=1000)
    assert wire.shares(list("abcdef"), most=12) == dict.fromkeys("abcdef", 2)
    assert wire.shares(list("abcdef"), most=4) == dict.fromkeys("abcd", 1)


@pytest.mark.parametrize(("claim_s", "answer_s", "ahead"), [(0.01, 1.0, 0), (0.06, 0.2, 2), (0.05, 0.01, 8)])
async def test_as_many_are_claimed_ahead_as_are_answered_during_one_claim(
    claim_s: float, answer_s: float, ahead: int
) -> None:
    """None for an API that takes its time, as many again for one that is faster than the database."""
    wire = Wire({"a": 8}, most=1000)
    for _ in range(60):
        wire.claimed({"a": 1}, claim_s)
        await answered(wire, "a", answer_s)
    assert wire.shares(["a"], most=100) == {"a": 8 + ahead}


async def test_what_is_ahead_waits_for_its_turn() -> None:
    """Of more claims than the account may have on the wire, the rest waits for an answer."""
    wire = Wire({"a": 2}, most=1000)
    wire.claimed({"a": 3}, 0.01)
    await wire.turn("a")
    await wire.turn("a")
    third = asyncio.create_task(wire.turn("a"))
    await asyncio.sleep(0)
    assert not third.done()
    wire.answered("a", 0.1)
    await asyncio.wait_for(third, 5)


async def test_a_stop_lets_whoever_waits_go_on() -> None:
    """They will send nothing, and their claims are given back at once."""
    wire = Wire({"a": 1}, most=1000)
    wire.claimed({"a": 3}, 0.01)
    await wire.turn("a")
    rest = [asyncio.create_task(wire.turn("a")) for _ in range(2)]
    await asyncio.sleep(0)
    wire.open()
    await asyncio.wait_for(asyncio.gather(*rest), 5)


async def test_nothing_is_kept_for_accounts_that_have_nothing_on_the_wire() -> None:
    """Its bookkeeping is as large as what is on the wire, and not as the configuration."""
    wire = Wire(dict.fromkeys("abc", 8), most=1000)
    for account in "abc":
        wire.claimed({account: 1}, 0.01)
        await answered(wire, account, 0.1)
    assert not wire._turns
    assert not wire._unanswered
