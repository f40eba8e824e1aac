"""What a batch of settlements says of run-ups: failures and rejections of different appointments in a row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.settlements import claim, notes
from worker.claims import PauseKind, Settlement, Sign, SignKind
from worker.runup import in_a_row


def told(
    kind: SignKind,
    at: float,
    appointment: str = "app_1",
    reason: str = "why",
    *,
    ids: tuple[int, ...] = (1,),
    probing: PauseKind | None = None,
    account: str = "default",
) -> Settlement:
    """The settlement of a claim whose answer came at `at` and said this of the API."""
    held = replace(claim(notes(*ids), probing=probing), appointment_id=appointment, account=account)
    sign = Sign(kind=kind, started_at=at - 0.5, told_at=at, reason=reason, change_ids=ids, charged=1)
    return Settlement(claim=held, upto_id=ids[-1], due_in_s=None, failures=0, part_size=None, unsure_ids=(), sign=sign)


def appointments(*settlements: Settlement) -> list[tuple[str, str]]:
    """The kind and appointment of each setback."""
    return sorted((one.kind, one.appointment_id) for one in in_a_row(settlements).setbacks)


def test_answers_count_in_the_order_in_which_they_came() -> None:
    """However the batch is ordered: what failed before a success is over, what failed after it counts."""
    batch = [told("down", 3, "app_c"), told("down", 1, "app_a"), told("accepted", 2, "app_b")]
    for order in (batch, batch[::-1], [batch[1], batch[2], batch[0]]):
        assert appointments(*order) == [("down", "app_c")]
        assert in_a_row(order).over == {("default", "down"), ("default", "rejected")}


def test_the_parts_of_one_appointment_are_one_setback() -> None:
    """Its charges add up, its changes are named once, and its first request's start is kept."""
    batch = [told("rejected", 2, ids=(1, 2)), told("rejected", 1, ids=(1, 2, 3)), told("rejected", 3, ids=(4,))]
    (one,) = in_a_row(batch).setbacks
    assert (set(one.change_ids), len(one.change_ids), one.charged, one.started_at) == ({1, 2, 3, 4}, 4, 3, 0.5)


def test_another_reason_starts_anew() -> None:
    """Rejections for different reasons are no run; failures are one whatever they say."""
    batch = [
        told("rejected", 1, "app_a", "404"),
        told("rejected", 2, "app_b", "422"),
        told("rejected", 3, "app_c", "422"),
    ]
    assert appointments(*batch) == [("rejected", "app_b"), ("rejected", "app_c")]
    assert len(appointments(told("down", 1, "app_a", "503"), told("down", 2, "app_b", "no answer"))) == 2


@pytest.mark.parametrize(
    ("sign", "over"),
    [("accepted", {"down", "rejected"}), ("heard", {"down"}), ("rejected", {"down"}), ("down", set())],
)
def test_what_each_sign_ends(sign: SignKind, over: set[str]) -> None:
    """An acceptance ends both; any other answer says only that the API is up."""
    assert {kind for _, kind in in_a_row([told(sign, 1)]).over} == over
    before = [told("down", 1, "app_a"), told("rejected", 2, "app_b")]
    left = {kind for kind, appointment in appointments(*before, told(sign, 3)) if appointment != "app_1"}
    assert left == {"rejected"} - over


def test_probes_are_no_part_of_it() -> None:
    """What they meet is the business of the pause, good or bad."""
    for sign in ("accepted", "heard", "down", "rejected"):
        found = in_a_row([told("down", 1), told(sign, 2, "app_b", probing="down")])
        assert (len(found.setbacks), found.over) == (1, frozenset())


@pytest.mark.parametrize(
    ("sign", "welcome", "counted"),
    [("rejected", True, 2), ("rejected", False, 1), ("accepted", True, 1), ("heard", True, 1), ("down", True, 1)],
)
def test_a_rejection_that_ended_the_pause_is_part_of_it(sign: SignKind, welcome: bool, counted: int) -> None:
    """It may be the first of many, for another reason; whatever else a probe met is not."""
    probe = replace(told(sign, 2, "app_b", probing="rejected"), welcome=welcome)
    assert len(appointments(told("rejected", 1, "app_a"), probe)) == counted


def test_accounts_have_run_ups_of_their_own() -> None:
    """A success of one says nothing of another."""
    found = in_a_row([told("down", 1, account="north"), told("accepted", 2, account="south")])
    assert [one.account for one in found.setbacks] == ["north"]
    assert {account for account, _ in found.over} == {"south"}


def test_nothing_said_is_nothing_counted() -> None:
    """A 429, a 401 and what was given back unsent leave no sign."""
    found = in_a_row([replace(told("down", 1), sign=None)])
    assert (found.setbacks, found.over) == ((), frozenset())
