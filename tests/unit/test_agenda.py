"""When which account is worth a claim."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from tests.support import settlements
from worker import policy
from worker.agenda import (
    CONTENDED_MAX_S,
    CONTENDED_MIN_S,
    TOGETHER_MAX_S,
    TOGETHER_SHARE,
    Agenda,
    one_run_waits_for,
)
from worker.claims import Settlement, Written
from worker.merge import Change
from worker.store import Outlook

NOW = 1000.0


def agenda() -> Agenda:
    return Agenda(dict.fromkeys(("a", "b", "c"), 60.0))


def outlook(account: str, ready_in_s: float | None = None, *, waits: bool = True, due: bool = True) -> Outlook:
    return Outlook(
        account=account,
        ready_in_s=ready_in_s,
        waits=waits,
        due=due,
        paused_for_s=None,
        pause_kind=None,
        pause_reason=None,
        arrivals=False,
    )


def anybody(_: str) -> bool:
    return True


def test_who_has_waited_longest_comes_first_and_who_was_asked_last() -> None:
    """So no account can keep the others from being asked."""
    plan = agenda()
    for seconds, account in enumerate("abc"):
        plan.due(account, NOW + seconds)
    assert plan.ready(NOW + 5) == ["a", "b", "c"]
    plan.asked("a", NOW + 5)
    plan.due("b", NOW + 6)  # it waits since then already
    assert plan.ready(NOW + 6) == ["b", "c", "a"]


def test_an_account_that_waits_for_nothing_is_forgotten() -> None:
    """Nothing is kept for it, and nobody asks for it."""
    plan = agenda()
    plan.due("a", NOW)
    plan.read([outlook("a", waits=False)], NOW)
    assert plan.ready(math.inf) == []
    assert plan.next_at(anybody) == math.inf
    assert not plan.outlooks(NOW)


def test_slots_that_come_free_soon_after_each_other_are_asked_for_together() -> None:
    """A little later than the first of them, and by no more than a tiny part of a window."""
    plan = agenda()
    plan.read([outlook("a", 2.0)], NOW)
    assert NOW + 2.0 < plan.next_at(anybody) <= NOW + 2.0 + 60.0 / 1000
    assert plan.ready(NOW + 2.0) == []
    assert plan.ready(NOW + 2.1) == ["a"]


@pytest.mark.parametrize(("window_s", "later_s"), [(10.0, 10 * TOGETHER_SHARE), (3600.0, TOGETHER_MAX_S)])
def test_a_long_window_makes_nobody_wait_long(window_s: float, later_s: float) -> None:
    """For a share of the window, and never for longer than nobody notices; what is free already waits for nothing."""
    plan = Agenda({"a": window_s})
    for ready_in_s in (0.5, 2.0):
        plan.read([outlook("a", ready_in_s)], NOW)
        assert plan.next_at(anybody) == pytest.approx(NOW + ready_in_s + later_s, abs=1e-9)
    plan.read([outlook("a", 0.0)], NOW)
    assert plan.next_at(anybody) == NOW


def test_who_is_ready() -> None:
    """From the very instant on; who waits for nothing is not."""
    plan = agenda()
    plan.due("a", NOW)
    assert [plan.is_ready("a", NOW - 0.1), plan.is_ready("a", NOW), plan.is_ready("b", NOW)] == [False, True, False]
    plan.read([outlook("c", waits=False), outlook("b", 0.0)], NOW)  # the one is forgotten, the other is not
    assert plan.ready(NOW) == ["a", "b"]


def test_who_is_ready_need_not_be_read() -> None:
    """It is asked for a claim anyhow, which tells; another one that failed beside it is read."""
    plan = agenda()
    plan.due("a", NOW)
    failed = [replace(plain(account), answer=None) for account in ("a", "b")]
    plan.settled(failed, Written(), NOW)
    assert plan.take_unread() == {"b"}


def test_what_others_are_just_claiming_is_asked_for_less_and_less_soon() -> None:
    """A claim in vain although something is due: waits that double, up to a limit, until a claim finds something."""
    plan, waits = agenda(), []
    for _ in range(10):
        plan.read([outlook("a", 0.0)], NOW, in_vain={"a"})
        waits.append(plan.next_at(anybody) - NOW)
    assert waits[:3] == pytest.approx([CONTENDED_MIN_S, 2 * CONTENDED_MIN_S, 4 * CONTENDED_MIN_S])
    assert waits[-1] == CONTENDED_MAX_S
    plan.read([outlook("a", 0.0)], NOW)
    assert plan.next_at(anybody) == NOW
    plan.read([outlook("a", 0.0)], NOW, in_vain={"a"})
    assert plan.next_at(anybody) == NOW + CONTENDED_MIN_S


def test_only_accounts_that_may_have_more_claims_decide_how_long_to_wait() -> None:
    """One whose requests are all on the wire is not waited for."""
    plan = agenda()
    plan.due("a", NOW)
    plan.read([outlook("b", 7.0), outlook("c")], NOW)
    assert plan.next_at(lambda account: account != "a") > NOW + 7.0
    assert plan.next_at(lambda account: account == "c") == math.inf


def test_an_outlook_ages() -> None:
    """What was said a while ago is told as of now."""
    plan = agenda()
    plan.read([outlook("a", 7.0)], NOW)
    (told,) = plan.outlooks(NOW + 3.0)
    assert told.ready_in_s == 4.0


def test_what_arrived_and_what_is_unread_is_told_once() -> None:
    """Each is a set of accounts that empties when it is taken."""
    plan = agenda()
    plan.arrived(["a", "b", "a"])
    plan.unread("c")
    assert plan.has_arrived
    assert (plan.take_arrived(), plan.take_unread()) == ({"a", "b"}, {"c"})
    assert (plan.take_arrived(), plan.take_unread(), plan.has_arrived) == (set(), set(), False)


def plain(account: str) -> Settlement:
    """A success."""
    settled = policy.settle(
        replace(settlements.claim([Change(id=1, changes={"note": "n"})]), account=account),
        [Change(id=1, changes={"note": "n"})],
        settlements.sent(settlements.synced(note="n")),
        settlements.LIMITS,
        random.Random(1),
    )
    assert settled.answer is not None
    return settled


@pytest.mark.parametrize(
    ("case", "due", "unread"),
    [
        ("nothing else waits", set(), set()),
        ("more of it is due", {"a"}, set()),
        ("others wait", set(), {"a"}),
        ("nothing is known", set(), {"a"}),
        ("the lease was lost", set(), {"a"}),
        ("it failed", set(), {"a"}),
        ("the API was heard again", set(), {"a"}),
        ("something is brought back", set(), {"a"}),
        ("it was a probe", set(), {"a"}),
        ("more has arrived", set(), {"a"}),
    ],
)
def test_what_follows_from_a_settling(case: str, due: set[str], unread: set[str]) -> None:
    """A plain success of an account that waits for nothing else asks the database nothing."""
    plan, settled = agenda(), plain("a")
    if case != "nothing is known":
        known = outlook("a", 75.0, due=case == "others wait")
        plan.read([replace(known, arrivals=case == "more has arrived")], NOW)
    else:
        plan.due("a", NOW)
        plan.read([outlook("b", 75.0)], NOW)
        plan.asked("a", math.inf)
    if case == "it failed":
        settled = replace(settled, answer=None)
    if case == "it was a probe":
        settled = replace(settled, claim=replace(settled.claim, probing="down"))
    written = Written(
        reinstate=(("a", "down"),) if case == "something is brought back" else (),
        due=(settled,) if case == "more of it is due" else (),
        lost=(settled,) if case == "the lease was lost" else (),
        heard_again=("a",) if case == "the API was heard again" else (),
    )
    plan.settled([settled], written, NOW)
    assert set(plan.ready(NOW)) == due
    assert plan.take_unread() == unread


# -- a lone arrival --------------------------------------------------------------------------------------------------


def test_a_lone_arrival_is_taken_once() -> None:
    """One account, of which nothing is known: whatever comes to it is first."""
    plan = agenda()
    assert plan.take_lone_arrival() is None
    plan.arrived(["a", "a"])
    assert plan.take_lone_arrival() == "a"
    assert not plan.has_arrived
    assert plan.take_lone_arrival() is None


def test_arrivals_in_several_accounts_are_taken_in_together() -> None:
    """One statement serves them all."""
    plan = agenda()
    plan.arrived(["a", "b"])
    assert plan.take_lone_arrival() is None
    assert plan.take_arrived() == {"a", "b"}


@pytest.mark.parametrize(
    ("known", "lone"),
    [
        (outlook("a", 60.0, due=False), True),  # only a lease or a backoff to come
        (outlook("a", None, waits=False, due=False), True),
        (outlook("a", 0.0, due=True), False),
        (outlook("a", 60.0, due=True), False),  # no slot is free
        (replace(outlook("a", None, due=False), arrivals=True), False),
        (replace(outlook("a", 60.0, due=False), pause_kind="manual"), False),
        (replace(outlook("a", 60.0, due=False), pause_kind="throttled", paused_for_s=60.0), False),
    ],
)
def test_what_is_ahead_or_in_the_way_goes_first(known: Outlook, lone: bool) -> None:
    """It is left where it is, for those who take in whatever arrived."""
    plan = agenda()
    plan.read([known], NOW)
    plan.arrived(["a"])
    assert plan.take_lone_arrival() == ("a" if lone else None)
    assert plan.has_arrived is not lone


def test_what_is_due_by_our_own_doing_goes_first() -> None:
    """Something was taken in, and nobody has looked since."""
    plan = agenda()
    plan.due("a", NOW)
    plan.arrived(["a"])
    assert plan.take_lone_arrival() is None


# -- what one run waits for ------------------------------------------------------------------------------------------

LONGEST_S = 120.0


@pytest.mark.parametrize(
    ("waits_for", "waits"),
    [
        (outlook("a", LONGEST_S), True),  # budget
        (outlook("a", LONGEST_S + 0.1), False),  # a long throttle
        (outlook("a", 1.0, due=False), False),  # a backoff
        (outlook("a", None), False),
        (outlook("a", 0.0), True),
        (replace(outlook("a", 1.0), pause_kind="throttled"), True),
        (replace(outlook("a", 0.0), pause_kind="down"), True),  # the probe is due
        (replace(outlook("a", 0.1), pause_kind="down"), False),
        (replace(outlook("a", 0.1), pause_kind="rejected"), False),
        (replace(outlook("a", 0.1), pause_kind="refused"), False),
        (replace(outlook("a", None, due=False), arrivals=True), True),
    ],
)
def test_what_one_run_waits_for(waits_for: Outlook, waits: bool) -> None:
    """For budget, and for what is still to be taken in; not for a backoff, a long throttle or the next probe."""
    assert one_run_waits_for(waits_for, longest_s=LONGEST_S, idle_s=LONGEST_S) is waits


def test_one_run_does_not_wait_for_others_for_ever() -> None:
    """Nothing was dealt with for longer than a slot can take to be free: somebody else has the budget, or what is due.
    What has arrived is taken in all the same."""
    known = outlook("a", 0.0)
    assert not one_run_waits_for(known, longest_s=LONGEST_S, idle_s=LONGEST_S + 0.1)
    assert one_run_waits_for(replace(known, arrivals=True), longest_s=LONGEST_S, idle_s=LONGEST_S + 0.1)
