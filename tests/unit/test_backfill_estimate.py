"""What the backfill lane gets of the budget, against a simulation of slots, reserve and live changes."""

from __future__ import annotations

import heapq
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.backfill.estimate import Estimate, unmeasured
from worker.backfill.lane import Lane
from worker.cli import estimated
from worker.config import AccountSettings

LANE = Lane(slots=60, window_s=60.0, guard_s=0.5, reserve=6, at_once=1000, answer_s=0.25)


def simulated(lane: Lane, requests: int, *, live_every_s: float | None = None) -> float:
    """When the last of `requests` is answered: as claims go, with a live change every so many seconds."""
    cooling = list(lane.free_in_s or [0.0] * (lane.slots - lane.held_back))
    heapq.heapify(cooling)
    now, free, next_live = 0.0, 0, 0.0 if live_every_s else float("inf")
    while True:
        while cooling and cooling[0] <= now:
            heapq.heappop(cooling)
            free += 1
        while next_live <= now and free:
            heapq.heappush(cooling, now + lane.round_s)
            free -= 1
            next_live += live_every_s or 0.0
        while free > lane.reserve:
            requests -= 1
            if not requests:
                return now + lane.answer_s
            heapq.heappush(cooling, now + lane.round_s)
            free -= 1
        now = min(cooling[0], next_live if next_live > now else cooling[0])


@given(
    requests=st.integers(1, 500),
    slots=st.integers(1, 70),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    data=st.data(),
)
def test_without_live_changes_it_is_exact(requests: int, slots: int, share: float, data: st.DataObject) -> None:
    """From whatever each slot is at, the estimate is when the last request is answered."""
    lane = replace(LANE, slots=slots, reserve=int(slots * share))
    times = st.floats(0, lane.round_s, allow_subnormal=False)
    free_in_s = sorted(data.draw(st.lists(times, min_size=slots, max_size=slots)))
    lane = replace(lane, free_in_s=free_in_s, free=free_in_s.count(0.0))
    assert lane.sent_in_s(requests) == pytest.approx(simulated(lane, requests), abs=1e-6)


@pytest.mark.parametrize("live_per_minute", [1, 5, 20, 45, 52])
@pytest.mark.parametrize("held_back", [0, 1])
def test_live_changes_take_their_share(live_per_minute: int, held_back: int) -> None:
    """With live changes coming all the time, it is right to 2 % and a round. Where they use nearly all, they keep the
    reserve in use, too, and it is sooner done than told, never later."""
    lane = replace(LANE, live=live_per_minute / 60 * LANE.round_s, held_back=held_back)
    told = lane.sent_in_s(2000)
    assert told is not None
    came = simulated(lane, 2000, live_every_s=60 / live_per_minute)
    assert came <= told * 1.02 + lane.round_s
    assert live_per_minute > 20 or came >= told * 0.98 - lane.round_s


def test_the_lane_gets_nothing() -> None:
    """Where live changes use all that the reserve leaves, or all of that is held back, there is no end to be told, and
    it is said why."""
    assert replace(LANE, live=54.5).sent_in_s(1) is None
    assert replace(LANE, held_back=54).sent_in_s(1) is None
    assert replace(LANE, held_back=54).per_minute == 0


def test_more_slots_than_are_told_one_by_one() -> None:
    """Of more than a thousand slots, only how many are free is known: the others come evenly."""
    lane = replace(LANE, slots=2000, reserve=200, free=400)
    assert lane.sent_in_s(200) == pytest.approx(lane.answer_s)
    assert lane.sent_in_s(1000) == pytest.approx(lane.round_s / 2 + lane.answer_s, rel=0.01)
    assert lane.sent_in_s(2000) == pytest.approx(lane.round_s + lane.answer_s)


def test_a_limit_that_was_just_raised() -> None:
    """Slots that the configuration has and the database does not have yet come round with the others."""
    lane = replace(LANE, free_in_s=[0.0] * 20, free=20)
    assert lane.sent_in_s(14) == pytest.approx(lane.answer_s)
    assert lane.answer_s < (lane.sent_in_s(18) or 0.0) < lane.round_s
    assert lane.sent_in_s(54) == pytest.approx(lane.round_s + lane.answer_s)


def test_what_goes_on_the_wire_at_once_can_be_less_than_the_budget() -> None:
    """A thousand requests a second are not made eight at once when an answer takes half a second."""
    lane = replace(LANE, slots=1000, reserve=0, window_s=1.0, guard_s=0.0, answer_s=0.5, at_once=8)
    assert lane.per_minute == pytest.approx(16 * 60)
    assert lane.sent_in_s(16_000) == pytest.approx(1000, rel=0.02)


def test_a_year_through_sixty_a_minute() -> None:
    """As configured, a million requests take a million windows of 54, each as long as a slot rests."""
    estimate = unmeasured({"default": 1_000_000}, {"default": AccountSettings()})
    assert estimate.seconds == pytest.approx(1_000_000 / 54 * 61, rel=0.001)
    (account,) = estimate.accounts
    assert (account.per_minute, account.reserve) == (pytest.approx(54 / 61 * 60), 6)
    assert (estimate.done_at - estimate.at).total_seconds() == pytest.approx(estimate.seconds)


def test_accounts_are_worked_off_beside_each_other() -> None:
    """All is done when the last account is; the rates add up."""
    accounts = {"north": AccountSettings(), "south": AccountSettings(rate_limit=600)}
    estimate = unmeasured({"north": 54 * 10, "south": 54}, accounts)
    assert estimate.seconds == unmeasured({"north": 540}, accounts).seconds
    assert (estimate.requests, estimate.ahead) == (594, 0)
    assert estimated.when(estimate).endswith(" at 584 requests a minute")


def test_nothing_to_send_takes_no_time() -> None:
    """Nothing is done at once, even where the lane gets nothing."""
    assert unmeasured({"default": 0}, {"default": AccountSettings()}).seconds == 0
    assert unmeasured({}, {}).seconds == 0


def test_a_time_beyond_all_calendars() -> None:
    """One request a day, for ten million: no date can be named, and none is overflown."""
    accounts = {"default": AccountSettings(rate_limit=1, rate_window_s=86_400)}
    estimate = unmeasured({"default": 10_000_000}, accounts)
    assert estimate.done_at is not None
    assert estimated.when(estimate).startswith("done in about 10000")


def said(**changes: object) -> list[str]:
    (account,) = unmeasured({"default": 100}, {"default": AccountSettings()}).accounts
    usual = {"measured": True, "live_looked_back_s": 86_400.0, "answer_assumed": False}
    account = replace(account, **(usual | changes))  # type: ignore[arg-type]
    estimate = Estimate(accounts=(account,), at=unmeasured({}, {}).at)
    return [estimated.when(estimate), *estimated.remarks(estimate)]


def test_what_is_said_of_it() -> None:
    """What the lane gets is explained; what is assumed, what goes first and a pause are said."""
    assert said()[1:] == ["of 60 requests a minute, 6 are reserved for live changes"]
    assert said(live_per_window=12.34, held_back=3)[1:] == [
        "of 60 requests a minute, 6 are reserved for live changes, live changes use 12.3 (mean of the last 1d 0h), "
        "3 are held back, since somebody else uses the key"
    ]
    assert said(ahead=1200, answer_assumed=True)[2:] == [
        "1,200 requests go first: in the lane already, or live",
        "an answer is assumed to take 0.5s",
    ]
    assert said(pause_kind="manual", pause_reason="holidays", seconds=None)[:1] == [
        "as things are it is never done: account default is paused by hand (holidays): caspen-sync resume default"
    ]
    assert said(pause_kind="down", pause_reason="503", paused_for_s=12.0)[2:] == [
        "the account is paused (down: 503), for 12s at least; that comes on top"
    ]
    assert said(seconds=None, per_minute=0.0)[0] == (
        "as things are it is never done: account default has nothing left for backfills, live changes use all that the "
        "reserve leaves of its budget"
    )
    assert "all that the reserve leaves is held back" in said(seconds=None, held_back=54)[0]
