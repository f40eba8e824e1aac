"""The sentence that says whether everything is synced, and what it is waiting for if not."""

from __future__ import annotations

import pytest

from tests.support.statuses import account, found
from worker.status import STRANGERS_COUNTED, Status, Stranger
from worker.summary import summary

NROTH = Stranger(account="nroth", changes=3, oldest_s=10.0)


@pytest.mark.parametrize(
    ("it_is", "said"),
    [
        (found(workers=False), "no worker has run yet; caspen-sync run --once"),
        (found(account()), "everything is synced"),
        (found(account(served=False), workers=False), "everything is synced"),
        (
            found(account(parked=1)),
            "everything is synced but what is parked: 1 change is; caspen-sync parked list",
        ),
        (
            found(account("a", parked=1), account("b", parked=2)),
            "everything is synced but what is parked: 3 changes are; caspen-sync parked list",
        ),
        (
            found(account(pause_kind="manual", pause_reason="moving rooms")),
            "everything is synced; account default is paused by hand (moving rooms), caspen-sync resume default",
        ),
        (
            found(account(pause_kind="throttled", pause_reason="429", paused_for_s=3.0)),
            "everything is synced",
        ),
        (
            found(
                account(live=1000, backfill=204, due=1200, due_backfill=200, waiting=4, next_due_s=12, budget_free=0)
            ),
            "1,204 changes wait: 1,200 appointments for budget (60 requests a minute: done in about 21 min), "
            "4 back off (next in 12s)",
        ),
        (
            found(account(live=5000, due=100, arrived=4900, budget_free=0, window_s=10.0, guard_s=0.0)),
            "5,000 changes wait: 100 appointments for budget (60 requests in 10s: done in at least 17 s), "
            "4,900 changes just arrived",
        ),
        (found(account(live=1, in_flight=1)), "1 change waits: 1 on the wire"),
        (
            found(account(live=4, due=1, in_flight=2, waiting=1, next_due_s=0.5)),
            "4 changes wait: 1 appointment goes out now, 2 on the wire, 1 backs off (next in 0.5s)",
        ),
        (
            found(account(live=2)),
            "2 changes wait: nobody is woken for them, was outbox.state set by hand?",
        ),
        (
            found(account(live=3, due=3, served=False), workers=False),
            "3 changes wait and no worker is running: caspen-sync run --once",
        ),
        (
            found(account(live=3, pause_kind="manual", pause_reason="x", served=False), workers=False),
            "3 changes wait and no worker is running: caspen-sync run --once; "
            "account default is paused by hand (x), caspen-sync resume default",
        ),
        (
            found(account(), account("north", live=3, due=3, served=False)),
            "3 changes wait: account north has no worker among those that run: 3 changes; "
            "is accounts.north in their configuration?",
        ),
        (
            found(
                account(live=100, due=100, budget_free=0),
                account("north", live=2, pause_kind="refused", pause_reason="401", paused_for_s=59),
            ),
            "102 changes wait: account north is paused, the API refused its token (401), next probe in 59s; "
            "account default: 100 appointments for budget (60 requests a minute: done in about 2 min)",
        ),
        (
            found(account(live=2, pause_kind="down", pause_reason="503", paused_for_s=59)),
            "2 changes wait: account default is paused, the API is down (503), next probe in 59s",
        ),
        (
            found(account(live=2, pause_kind="rejected", pause_reason="404", paused_for_s=59)),
            "2 changes wait: account default is paused, the API rejects everything (404), is api.base_url right?, "
            "next probe in 59s",
        ),
        (
            found(account(live=2, pause_kind="throttled", pause_reason="429", paused_for_s=9)),
            "2 changes wait: account default is throttled by the API, goes on in 9.0s",
        ),
        (
            found(account(), strangers=(NROTH,)),
            "3 changes wait: 3 for account nroth, which no configuration names: accounts.nroth is missing, "
            "or the writer misspelt it",
        ),
        (
            found(strangers=(NROTH,), workers=False),
            "3 changes wait: 3 for account nroth, which no configuration names: accounts.nroth is missing, "
            "or the writer misspelt it",
        ),
        (
            found(strangers=(Stranger(account="n", changes=STRANGERS_COUNTED, oldest_s=1),), workers=False),
            "at least 10,000 changes wait: at least 10,000 for account n, which no configuration names: "
            "accounts.n is missing, or the writer misspelt it",
        ),
    ],
)
def test_what_it_waits_for(it_is: Status, said: str) -> None:
    """Whether all is synced, and if not, each thing that is waited for, with what to do where there is something."""
    assert summary(it_is) == said


def test_many_accounts() -> None:
    """The sentence names a few, those first that wait for a person; it says how many more there are."""
    accounts = [account(f"a{n}", live=n, in_flight=n) for n in range(1, 6)]
    paused = account("b", live=1, pause_kind="manual", pause_reason="x")
    strangers = tuple(Stranger(account=f"s{n}", changes=1, oldest_s=1) for n in range(5))
    said = summary(found(*accounts, paused, strangers=strangers))
    assert said.startswith("21 changes wait: account b is paused by hand (x), caspen-sync resume b; account a5: ")
    assert "; and 3 more accounts; 1 for account s0" in said
    assert said.endswith("; and 2 more accounts that no configuration names")


def test_the_estimate() -> None:
    """It is what the budget takes at the least: for all of what is due, or for backfill, which leaves a reserve."""
    assert account(live=60, due=60).done_in_s is None
    assert account(live=180, due=180).done_in_s == 2 * 60.5
    assert account(live=180, due=180, budget_free=0).done_in_s == 3 * 60.5
    assert account(backfill=108, due=108, due_backfill=108, budget_free=0).done_in_s == 2 * 60.5
    assert account(live=90, due=90, budget_free=0, held_back=30).done_in_s == 3 * 60.5
    assert account(live=90, due=90, budget_free=0, served=False).done_in_s is None
    assert account(live=90, due=90, budget_free=0, pause_kind="down").done_in_s is None


def test_later() -> None:
    """What is old grows older, what is to come comes nearer and is never in the past; all else stays."""
    before = found(account(oldest_s=5.0, next_due_s=1.0, paused_for_s=10.0), account("b", live=7), strangers=(NROTH,))
    after = before.later(2.5)
    one, other = after.accounts
    assert (one.oldest_s, one.next_due_s, one.paused_for_s) == (7.5, 0.0, 7.5)
    assert other == before.accounts[1]
    assert (after.unregistered[0].oldest_s, after.age_s, after.workers) == (12.5, 2.5, before.workers)
