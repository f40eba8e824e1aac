"""Folding, sifting and the sizes of parts."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.merge import Change, doubled, fold, halved, sift

FIELDS = {
    "note": st.none() | st.text(max_size=5),
    "room_id": st.none() | st.integers(0, 9),
    "confirmed": st.booleans(),
    "resource_ids": st.lists(st.integers(0, 3), max_size=3),
}
bodies = st.fixed_dictionaries({}, optional=FIELDS).filter(bool)


def numbered(changes: list[dict[str, Any]]) -> list[Change]:
    return [Change(id=number, changes=body) for number, body in enumerate(changes, start=1)]


def applied(remote: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """What the API does with an update, as its page says: absent means leave, null means clear."""
    after = dict(remote)
    for field in remote:
        if field in body:
            after[field] = body[field]
    return after


@given(start=st.fixed_dictionaries(FIELDS), changes=st.lists(bodies, min_size=1, max_size=12))
def test_fold_then_send_equals_sending_one_by_one(start: dict[str, Any], changes: list[dict[str, Any]]) -> None:
    """Whatever the remote state was, one folded request leaves what the single requests in id order would."""
    one_by_one = start
    for body in changes:
        one_by_one = applied(one_by_one, body)
    assert applied(start, fold(numbered(changes))) == one_by_one


@given(changes=st.lists(bodies, min_size=1, max_size=12), cut=st.integers(0, 12))
def test_folding_in_parts_equals_folding_at_once(changes: list[dict[str, Any]], cut: int) -> None:
    """A fold that is sent in two parts, in order, sets what the whole fold sets."""
    whole = numbered(changes)
    assert fold(whole[:cut]) | fold(whole[cut:]) == fold(whole)


def test_folding_leaves_the_changes_alone() -> None:
    """The fold is a new body; the changes are sent again from the same values after a refusal."""
    changes = numbered([{"note": "a"}, {"note": None}])
    assert fold(changes) == {"note": None}
    assert changes[0].changes == {"note": "a"}


def test_sift_parts_sound_from_broken_in_order() -> None:
    """A change that breaks the contract is put aside with its problems; the others keep their order."""
    changes = numbered([{"note": "a"}, {"room_id": "x"}, {"note": "b"}, {"bogus": 1, "confirmed": 2}])
    sound, breaches = sift(changes, ids="integer")
    assert [change.id for change in sound] == [1, 3]
    found = {breach.change.id: [problem.field for problem in breach.problems] for breach in breaches}
    assert found == {2: ["room_id"], 4: ["confirmed", "bogus"]}


@given(size=st.integers(1, 1000), guilty=st.data())
def test_halving_and_doubling_finds_the_guilty_and_spares_the_rest(size: int, guilty: Any) -> None:
    """The way in which parts are sized parks exactly the guilty change, within a few requests for each."""
    bad = guilty.draw(st.integers(1, size))
    pending, parked, synced, requests = list(range(1, size + 1)), [], [], 0
    part: int | None = None
    while pending:
        taken = pending[:part]
        requests += 1
        if bad not in taken:
            synced += taken
        elif len(taken) > 1:
            part = halved(len(taken))
            continue
        else:
            parked += taken
        pending = pending[len(taken) :]
        part = doubled(part) if part is not None and len(taken) == part else None
    assert parked == [bad]
    assert synced == [number for number in range(1, size + 1) if number != bad]
    assert requests <= 4 * size.bit_length() + 2
