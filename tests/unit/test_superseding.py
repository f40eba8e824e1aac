"""Changes that are sent after newer ones: what newer ones have set is left out of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.merge import Change, fold, set_by, superseded

FIELDS = ("note", "room_id", "confirmed")
bodies = st.dictionaries(st.sampled_from(FIELDS), st.integers(0, 99) | st.none(), min_size=1)


class World:
    """One appointment, remotely and in the tables: what the store and the sender do, without either."""

    def __init__(self, bodies: list[dict[str, Any]]) -> None:
        self.bodies = dict(enumerate(bodies, start=1))
        self.state = dict.fromkeys(self.bodies, "pending")
        self.remote: dict[str, Any] = {}
        self.set_by: dict[str, int] = {}

    def send(self, most: int, refused: set[int]) -> None:
        """One claim of the oldest pending changes: parks it if it holds a refused one, and else syncs it."""
        ids = [number for number, state in self.state.items() if state == "pending"][:most]
        changes = [
            Change(id=n, changes=b, superseded=superseded(b, n, self.set_by)) for n in ids if (b := self.bodies[n])
        ]
        for change in changes:
            if change.outdated:
                self.state[change.id] = "discarded"
        sound = [change for change in changes if not change.outdated]
        if refused & {change.id for change in sound}:
            self.state.update({change.id: "parked" for change in sound})
            return
        self.remote |= fold(sound)
        self.set_by |= set_by(sound)
        self.state.update({change.id: "synced" for change in sound})


@given(
    written=st.lists(bodies, min_size=1, max_size=9),
    rounds=st.lists(st.tuples(st.integers(1, 4), st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9))), max_size=8),
)
def test_the_final_state_is_the_fold_by_id_order(
    written: list[dict[str, Any]], rounds: list[tuple[int, set[int], set[int]]]
) -> None:
    """Whichever changes were parked at first and brought back later, in parts of any size: the appointment holds what
    all changes that were synced come to in id order, and one that was discarded would have changed nothing."""
    world = World(written)
    for most, refused, brought_back in rounds:
        world.send(most, refused)
        for number in brought_back:
            if world.state.get(number) == "parked":
                world.state[number] = "pending"
    while "pending" in world.state.values():
        world.send(2, set())
    in_order = [Change(id=n, changes=b) for n, b in world.bodies.items() if world.state[n] == "synced"]
    assert world.remote == fold(in_order)
    assert world.set_by == set_by(in_order)
    not_parked = [Change(id=n, changes=b) for n, b in world.bodies.items() if world.state[n] != "parked"]
    assert world.remote == fold(not_parked)


def test_set_by_names_the_newest_change_of_each_field() -> None:
    """... of those that were sent of it: a field that was left out keeps its newer owner."""
    changes = [
        Change(id=3, changes={"note": 1, "room_id": 1}, superseded=frozenset({"room_id"})),
        Change(id=5, changes={"note": None}),
    ]
    assert fold(changes) == {"note": None}
    assert set_by(changes) == {"note": 5}


@pytest.mark.parametrize(
    ("newest", "left_out", "outdated"),
    [
        ({}, set(), False),
        ({"note": 8, "room_id": 7}, {"note"}, False),
        ({"note": 8, "room_id": 9}, {"note", "room_id"}, True),
    ],
)
def test_what_newer_changes_have_set(newest: dict[str, int], left_out: set[str], outdated: bool) -> None:
    """Only fields that a newer change set; one of which nothing is left is outdated."""
    body = {"note": "n", "room_id": 1}
    found = superseded(body, 7, newest)
    assert found == left_out
    assert Change(id=7, changes=body, superseded=found).outdated == outdated


def test_the_first_change_of_all_is_superseded_by_none() -> None:
    """Nor is any by itself: it may be sent again."""
    assert superseded({"note": 1, "room_id": 1}, 0, {"note": 0}) == frozenset()


@pytest.mark.parametrize("body", [None, [], "note", 7])
def test_a_body_that_is_no_object_supersedes_nothing(body: Any) -> None:
    """It breaks the contract and parks; it must not break the claim."""
    assert superseded(body, 1, {"note": 9}) == frozenset()
    assert not Change(id=1, changes=body).outdated
