"""The sentence that says whether everything is synced, and what it is waiting for if not."""

from __future__ import annotations

from typing import Any

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
                account(live=1000, backfill=204, due=1200, due_backfill=200, waiting=4, next_due_s=12, done_in_s=1210)
            ),
            "1,204 changes wait: 1,200 appointments for budget (60 requests a minute: done in about 21 min), "
            "4 back off (next in 12s)",
        ),
        (
            found(account(live=5000, due=100, arrived=4900, window_s=10.0, guard_s=0.0, done_in_s=16.7)),
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
            "2 changes wait: nobody is woken for them, was outbox.state set by hand? "
            "caspen-sync check says how to wake them",
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
                account(live=100, due=100, done_in_s=100.8),
                account("north", live=2, pause_kind="refused", pause_reason="401", paused_for_s=59),
            ),
            "102 changes wait: account north (2 changes) is paused, the API refused its token (401), next probe in "
            "59s; account default: 100 appointments for budget (60 requests a minute: done in about 2 min)",
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
        (
            found(strangers=(Stranger(account="north", changes=1, oldest_s=1),), workers=False),
            "1 change waits: no worker has taken up account north yet (1 change): caspen-sync run --once, or restart "
            "the service",
        ),
        (
            found(strangers=(Stranger(account="north", changes=STRANGERS_COUNTED, oldest_s=1), NROTH), workers=False),
            "at least 10,003 changes wait: 3 for account nroth, which no configuration names: accounts.nroth is "
            "missing, or the writer misspelt it; no worker has taken up account north yet (at least 10,000 changes): "
            "caspen-sync run --once, or restart the service",
        ),
        (
            found(strangers=(Stranger(account="north.clinic ", changes=1, oldest_s=1),)),
            '1 change waits: 1 for account "north.clinic ", which no configuration names: accounts."north.clinic " '
            "is missing, or the writer misspelt it",
        ),
        (
            found(account(), account("a.b", live=3, due=3, served=False)),
            '3 changes wait: account a.b has no worker among those that run: 3 changes; is accounts."a.b" in their '
            "configuration?",
        ),
        (
            found(account("a b", pause_kind="manual", pause_reason="x")),
            "everything is synced; account a b is paused by hand (x), caspen-sync resume 'a b'",
        ),
        (
            found(account(live=1, in_flight=1, parked=1200)),
            "1 change waits: 1 on the wire; 1,200 parked: caspen-sync parked list",
        ),
        (
            found(account(live=1, parked=2, served=False), workers=False),
            "1 change waits and no worker is running: caspen-sync run --once; 2 parked: caspen-sync parked list",
        ),
        (
            found(
                account(live=2, pause_kind="throttled", pause_reason="429", paused_for_s=9, served=False),
                workers=False,
            ),
            "2 changes wait and no worker is running: account default is throttled by the API, goes on in 9.0s",
        ),
    ],
)
def test_what_it_waits_for(it_is: Status, said: str) -> None:
    """Whether all is synced, and if not, each thing that is waited for, with what to do where there is something."""
    assert summary(it_is, ["default", "north"]) == said


def test_many_accounts() -> None:
    """The sentence names a few, those first that wait for a person; it says how many more there are."""
    accounts = [account(f"a{n}", live=n, in_flight=n) for n in range(1, 6)]
    paused = account("b", live=1, pause_kind="manual", pause_reason="x")
    strangers = tuple(Stranger(account=f"s{n}", changes=1, oldest_s=1) for n in range(5))
    said = summary(found(*accounts, paused, strangers=strangers), [])
    assert said.startswith(
        "21 changes wait: account b (1 change) is paused by hand (x), caspen-sync resume b; account a5: "
    )
    assert "; and 3 more accounts; 1 for account s0" in said
    assert said.endswith("; and 2 more accounts that no worker has taken up")


ALL_FREE, ALL_USED = [0.0] * 60, [40.0] * 60


@pytest.mark.parametrize(
    ("figures", "free_in_s", "done_in_s"),
    [
        ({"due": 60}, ALL_FREE, None),
        ({"due": 61}, ALL_FREE, 60.5),
        ({"due": 180}, ALL_FREE, 2 * 60.5),
        ({"due": 1}, ALL_USED, 40.0),
        ({"due": 60}, ALL_USED, 40.0),
        ({"due": 180}, ALL_USED, 40.0 + 2 * 60.5),
        ({"due": 3}, [0.0, 0.0, 12.0, 50.0], 12.0),
        ({"due": 5}, [0.0, 0.0, 12.0, 50.0], 60.5),
        ({"due": 4}, [0.0, 0.0, 12.0, 120.5], 60.5),
        ({"due": 1}, [], 60.5),
        ({"due": 54, "due_backfill": 54}, ALL_FREE, None),
        ({"due": 55, "due_backfill": 55}, ALL_FREE, 60.5),
        ({"due": 1, "due_backfill": 1, "budget_reserve": 2}, [0.0, 0.0, 12.0, 50.0], 12.0),
        ({"due": 1, "due_backfill": 1}, [0.0, 12.0, 50.0], 50.0),
        ({"due": 60}, None, None),
        ({"due": 180}, None, 2 * 60.5),
        ({"due": 90, "budget_free": 0, "held_back": 30}, None, 3 * 60.5),
        ({"due": 108, "due_backfill": 108, "budget_free": 0}, None, 2 * 60.5),
        ({"due": 90, "served": False}, ALL_USED, None),
        ({"due": 90, "pause_kind": "down"}, ALL_USED, None),
    ],
)
def test_the_estimate(figures: dict[str, Any], free_in_s: list[float] | None, done_in_s: float | None) -> None:
    """When the last of what is due finds a slot: each is used once it is free, and a window later again; backfill
    leaves a reserve, and what is on the wire rests from now on. None where it is not the budget that is waited for."""
    assert account(**figures).estimated(free_in_s).done_in_s == done_in_s


def test_later() -> None:
    """What is old grows older, what is to come comes nearer and is never in the past; all else stays."""
    before = found(
        account(oldest_s=5.0, next_due_s=1.0, paused_for_s=10.0, done_in_s=40.0),
        account("b", live=7),
        strangers=(NROTH,),
    )
    after = before.later(2.5)
    one, other = after.accounts
    assert (one.oldest_s, one.next_due_s, one.paused_for_s, one.done_in_s) == (7.5, 0.0, 7.5, 37.5)
    assert other == before.accounts[1]
    assert (after.unregistered[0].oldest_s, after.age_s, after.workers) == (12.5, 2.5, before.workers)
