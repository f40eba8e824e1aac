"""The values that travel."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from tests.support.settlements import claim, notes
from worker.claims import Paused, Written, joined
from worker.policy import release


def test_what_several_batches_did_is_what_each_of_them_did() -> None:
    """All of it, in their order."""
    first, second = (release(replace(claim(notes(number)), appointment_id=f"app_{number}")) for number in (1, 2))
    paused = Paused(account="a", kind="down", reason="503", for_s=10.0, pauses=1, began=True)
    one = Written(due=(first,), lost=(second,), paused=(paused,), heard_again=("a",))
    two = Written(due=(second,), welcomed=("a", "b"), reinstate=(("a", "down"),), heard_again=("b",))
    both: dict[str, Any] = {
        "due": (first, second),
        "lost": (second,),
        "paused": (paused,),
        "welcomed": ("a", "b"),
        "reinstate": (("a", "down"),),
        "heard_again": ("a", "b"),
    }
    assert joined([one, two]) == Written(**both)
    assert both.keys() == {one.name for one in fields(Written)}
    assert joined([]) == Written()
