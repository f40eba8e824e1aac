"""How many claims there may be of which account, and which of them have a place on the wire."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support import settlements
from worker.sender import Delivery
from worker.wire import Wire


def claim_of(account: str, appointment: str = "app_1") -> Delivery:
    return Delivery(claim=replace(settlements.claim([]), account=account, appointment_id=appointment))


def claimed(wire: Wire, account: str, count: int) -> None:
    """So many claims are made, and take whatever places are free."""
    wire.add(claim_of(account) for _ in range(count))
    while wire.enter(account):
        pass


def test_an_account_has_no_more_than_its_own_and_all_no_more_than_the_process() -> None:
    """What is unanswered counts, of this account and of all."""
    wire = Wire({"a": 3, "b": 8}, most=9)
    assert wire.shares(["a", "b"], most=100) == {"a": 3, "b": 4}
    claimed(wire, "a", 3)
    claimed(wire, "b", 4)
    assert wire.shares(["a", "b"], most=100) == {"b": 2}
    claimed(wire, "b", 2)
    assert wire.shares(["b"], most=100) == {}
    assert not wire.has_room("b")


@pytest.mark.parametrize(("accounts", "most"), [({"a": 3}, 100), ({"a": 100}, 3), ({"a": 100, "b": 100}, 3)])
@pytest.mark.parametrize("answered", [True, False])
def test_what_is_done_with_makes_room(accounts: dict[str, int], most: int, answered: bool) -> None:
    """One claim for another, whether or not anything was learnt of answers; the last place is a place."""
    wire = Wire(accounts, most=most)
    claimed(wire, "a", 2)
    assert wire.has_room("a")
    assert wire.shares(["a"], most=100) == {"a": 1}
    claimed(wire, "a", 1)
    assert not any(map(wire.has_room, accounts))
    for left in (1, 2, 3):
        if answered:
            wire.go_on("a", 0.1)
        else:
            wire.leave("a")
        assert wire.has_room("a")
        assert wire.shares(["a"], most=100) == {"a": left}


def test_what_waits_for_a_place_takes_room() -> None:
    """It is claimed, and will be on the wire."""
    wire = Wire({"a": 3}, most=1000)
    wire.add([claim_of("a"), claim_of("a")])
    assert wire.shares(["a"], most=100) == {"a": 1}
    wire.add([claim_of("a")])
    assert not wire.has_room("a")


def test_one_answer_changes_little() -> None:
    """What was measured last is a part of the average, in the direction in which it was off."""
    wire = Wire({"a": 100}, most=1000)
    for _ in range(60):
        wire.claimed_within(0.1)

    def ahead(answer_s: float) -> int:
        claimed(wire, "a", 1)
        wire.go_on("a", answer_s)
        return wire.shares(["a"], most=1000)["a"] - 100

    assert [ahead(1.0) for _ in range(3)] == [9, 9, 9]  # a tenth, and a hair less
    assert ahead(0.5) == 11  # 0.1 / 0.9
    assert ahead(5.0) == 5  # 0.1 / 1.72


def test_what_there_is_room_for_is_shared_alike() -> None:
    """With less room than accounts, those that come first get one each."""
    wire = Wire(dict.fromkeys("abcdef", 8), most=1000)
    assert wire.shares(list("abcdef"), most=12) == dict.fromkeys("abcdef", 2)
    assert wire.shares(list("abcdef"), most=4) == dict.fromkeys("abcd", 1)


@pytest.mark.parametrize(("claim_s", "answer_s", "ahead"), [(0.01, 1.0, 0), (0.06, 0.2, 2), (0.05, 0.01, 8)])
def test_as_many_are_claimed_ahead_as_are_answered_during_one_claim(
    claim_s: float, answer_s: float, ahead: int
) -> None:
    """None for an API that takes its time, as many again for one that is faster than the database."""
    wire = Wire({"a": 8}, most=1000)
    for _ in range(60):
        wire.claimed_within(claim_s)
        claimed(wire, "a", 1)
        assert wire.go_on("a", answer_s) is None
    assert wire.shares(["a"], most=100) == {"a": 8 + ahead}


def test_what_is_ahead_takes_the_place_of_what_was_answered() -> None:
    """Of more claims than the account may have on the wire, the rest waits, in the order in which they came."""
    wire = Wire({"a": 2}, most=1000)
    claims = [claim_of("a", str(number)) for number in range(4)]
    wire.add(claims)
    assert [wire.enter("a"), wire.enter("a"), wire.enter("a")] == [*claims[:2], None]
    assert wire.go_on("a", 0.1) is claims[2]
    assert wire.go_on("a", 0.1) is claims[3]
    assert wire.go_on("a", 0.1) is None
    assert wire.enter("a") is None  # nothing waits, though a place is free


def test_a_place_that_is_left_is_taken_by_whoever_waits() -> None:
    """Also where nothing was learnt of answers."""
    wire = Wire({"a": 1}, most=1000)
    claimed(wire, "a", 2)
    assert wire.enter("a") is None
    wire.leave("a")
    assert wire.enter("a") is not None


def test_a_stop_has_a_place_for_whoever_waits() -> None:
    """They will send nothing, and their claims are given back at once."""
    wire = Wire({"a": 1}, most=1000)
    claimed(wire, "a", 3)
    assert wire.open() == ["a"]
    assert [wire.enter("a") is None for _ in range(3)] == [False, False, True]


def test_nothing_is_kept_for_accounts_that_have_nothing_on_the_wire() -> None:
    """Its bookkeeping is as large as what is on the wire, and not as the configuration."""
    wire = Wire(dict.fromkeys("abc", 8), most=1000)
    for account in "abc":
        claimed(wire, account, 1)
        wire.go_on(account, 0.1)
        claimed(wire, account, 1)
        wire.leave(account)
    assert not wire._taken
    assert not wire._waiting
    assert wire.shares(["a"], most=1000) == {"a": 8}
