"""What went out together before, and may have been done unheard."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.settlements import REFUSED, REJECTED, RETRY, UNKNOWN, claim, notes
from worker import parts
from worker.claims import Claim
from worker.outcome import Outcome, Retry


def unsure_of(*unsure_ids: int) -> Claim:
    """A claim of changes 1 to 4, with what may have been done unheard."""
    return replace(claim(notes(1, 2, 3, 4)), unsure_ids=unsure_ids)


@pytest.mark.parametrize(
    ("unsure_ids", "size"), [((), None), ((0,), None), ((1,), 1), ((1, 3), 3), ((3, 4), 3), ((4,), None), ((9,), None)]
)
def test_together(unsure_ids: tuple[int, ...], size: int | None) -> None:
    """The most that went out together, of what is refused now, unless that is none of it or all."""
    assert parts.together(unsure_of(*unsure_ids), notes(1, 2, 3, 4)) == size


def gone(status: int) -> Retry:
    return Retry(status=status, reason=str(status))


@pytest.mark.parametrize(
    ("outcomes", "kept"),
    [
        ([UNKNOWN], (2, 4)),
        ([gone(200)], (2, 4)),
        ([gone(299)], (2, 4)),
        ([UNKNOWN, gone(503)], (2, 4)),
        ([gone(199)], (2,)),
        ([gone(300)], (2,)),
        ([RETRY], (2,)),
        ([REFUSED], (2,)),
        ([UNKNOWN, REJECTED], (2,)),
    ],
)
def test_what_may_have_been_done(outcomes: list[Outcome], kept: tuple[int, ...]) -> None:
    """Silence, and an answer of success that cannot be read; what the API refuses in the end it has not done."""
    assert parts.unsure_after(unsure_of(2), notes(1, 2, 3, 4), outcomes) == kept


def test_a_request_is_remembered_by_its_newest_change_and_once() -> None:
    """Of those that are remembered the newest stay."""
    assert parts.with_unsure(unsure_of(), notes(5)) == (5,)
    assert parts.with_unsure(unsure_of(2), notes(3, 4)) == (2, 4)
    assert parts.with_unsure(unsure_of(2, 4), notes(3, 4)) == (2, 4)
    assert parts.with_unsure(unsure_of(*range(1, 9)), notes(9)) == tuple(range(2, 10))


def test_what_is_refused_now_was_not_done_before() -> None:
    """Only that request is forgotten."""
    assert parts.unsure_after(unsure_of(2, 4), notes(1, 2), [REJECTED]) == (4,)


def test_what_is_accepted_is_unsure_no_more() -> None:
    """Up to its newest change."""
    assert parts.unsure_beyond(unsure_of(1, 2, 4), notes(1, 2)) == (4,)
