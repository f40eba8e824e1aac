"""How far a backfill is, in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from worker.backfill.progress import AccountProgress, Progress
from worker.backfill.registry import Backfill
from worker.cli.howfar import about, details, head, sentence
from worker.store import Outlook

NOW = datetime(2026, 11, 25, 9, 30, tzinfo=timezone(timedelta(hours=1)))  # a Wednesday
MAY = Backfill(
    account="default",
    name="may.csv",
    started_at=NOW,
    started_by="ann@desk",
    lines=1_000_000,
    loaded=1_000_000,
    outdated=0,
    left_out=0,
    discarded=0,
    pending=987_657,
    parked=3,
    loaded_at=NOW,
    unloaded=False,
    cancelled_at=None,
    cancelled_by=None,
    forgotten_at=None,
)
OUTLOOK = Outlook(
    account="default",
    ready_in_s=0.0,
    waits=True,
    due=True,
    paused_for_s=None,
    pause_kind=None,
    pause_reason=None,
    arrivals=False,
)
ACCOUNT = AccountProgress(
    account="default",
    pending=987_657,
    outlook=OUTLOOK,
    budget=60,
    used=54,
    reserve=6,
    held_back=0,
    changes_a_minute=54.4,
    requests_a_minute=53.6,
    done_in_s=1_097_397.0,
)
PROGRESS = Progress(name="may.csv", changes=1_000_000, pending=987_657, parked=3, accounts=(ACCOUNT,))


def paused(**columns: object) -> Progress:
    return replace(PROGRESS, accounts=(replace(ACCOUNT, outlook=replace(OUTLOOK, **columns), done_in_s=None),))


def test_the_sentence_while_it_is_under_way() -> None:
    """What is synced, parked and waits, and when it is done."""
    assert sentence([MAY], when="done about Thu 13:16") == (
        "12,340 of 1,000,000 changes of may.csv are synced, 3 parked; 987,657 wait; done about Thu 13:16"
    )


def test_the_sentence_of_several_accounts() -> None:
    """The counts of all of them together."""
    north = replace(MAY, account="north", lines=1, loaded=1, pending=1, parked=0)
    assert sentence([MAY, north]) == ("12,340 of 1,000,001 changes of may.csv are synced, 3 parked; 987,658 wait")


def test_the_sentence_at_the_end() -> None:
    """All that did not become a request is told apart; of one change it is said in the singular."""
    done = replace(MAY, lines=20, loaded=20, pending=0, parked=1, outdated=4, discarded=2)
    assert sentence([done]) == (
        "13 of 20 changes of may.csv are synced, 1 parked, 4 had nothing to send (newer changes had set all of it), "
        "2 discarded"
    )
    assert sentence([replace(done, lines=1, loaded=1, parked=0, outdated=0, discarded=0)]) == (
        "1 of 1 change of may.csv is synced"
    )


def test_the_sentence_of_a_cancelled_one() -> None:
    """By whom and when; not that it should be loaded again."""
    cancelled = replace(MAY, pending=0, discarded=9, cancelled_at=NOW, cancelled_by="ann@desk", unloaded=True)
    assert sentence([cancelled]).endswith(f"9 discarded; it was cancelled by ann@desk at {NOW.astimezone():%F %T}")


def test_details_while_all_goes_well() -> None:
    """What needs a person first, then when it is done, the rate and the budget."""
    assert head(PROGRESS) == "12,343 of 1,000,000 changes (1.2 %)"
    assert list(details(PROGRESS, NOW)) == [
        "3 parked",
        "done about 2026-12-08",
        "54 requests and 54 changes a minute",
        "budget 54 of 60 in use, 6 kept for live changes",
    ]


def test_percent_is_never_rounded_up() -> None:
    """What is not done is below 100 %."""
    assert head(replace(PROGRESS, pending=1)) == "999,999 of 1,000,000 changes (99.9 %)"


def test_no_rate_no_time() -> None:
    """Before a whole window was measured, neither is claimed; and the time not while one account has none."""
    unknown = replace(ACCOUNT, account="north", changes_a_minute=None, requests_a_minute=None, done_in_s=None)
    progress = replace(PROGRESS, parked=0, accounts=(unknown,))
    assert list(details(progress)) == ["budget 54 of 60 in use, 6 kept for live changes"]
    both = replace(PROGRESS, accounts=(ACCOUNT, unknown))
    assert both.done_in_s is None
    assert both.requests_a_minute == ACCOUNT.requests_a_minute
    assert replace(both, accounts=(ACCOUNT, replace(unknown, pending=0))).done_in_s == ACCOUNT.done_in_s


def test_what_is_waited_for() -> None:
    """Each pause says so and until when; backing off, too."""
    cases = [
        (
            {"pause_kind": "down", "pause_reason": "503", "paused_for_s": 12.0},
            "the API is down (503), next probe in 12s",
        ),
        ({"pause_kind": "throttled", "paused_for_s": 30.0}, "throttled by the API, goes on in 30s"),
        (
            {"pause_kind": "manual", "pause_reason": "ann@desk: audit"},
            "paused by hand (ann@desk: audit), caspen-sync resume default",
        ),
        (
            {"pause_kind": "refused", "pause_reason": "401", "paused_for_s": -0.1},
            "the API refuses the token (401), next probe in 0.0s",
        ),
        (
            {"pause_kind": "rejected", "pause_reason": "404", "paused_for_s": 60.0},
            "the API rejects everything (404), next probe in 1m 0s",
        ),
    ]
    for columns, said in cases:
        assert said in list(details(paused(**columns)))
    resting = paused(due=False, ready_in_s=40.0)
    assert "backing off, goes on in 40s" in list(details(replace(resting, backing_off=True)))
    assert "backing off" not in "".join(details(resting)), "what is due again is a lease"


def test_what_was_given_up_is_told() -> None:
    """Otherwise all would seem to be synced."""
    assert list(details(replace(paused(), pending=0, parked=0, discarded=3))) == ["3 discarded"]


def test_the_account_is_named_among_several() -> None:
    """Whoever reads of a pause knows whose it is."""
    progress = paused(pause_kind="down", pause_reason="503", paused_for_s=12.0)
    both = replace(progress, accounts=(*progress.accounts, replace(ACCOUNT, account="north")))
    assert "account default: the API is down (503), next probe in 12s" in list(details(both))


def test_when_it_is_done() -> None:
    """As precisely as is known: a wait, a time today, a day of this week, a date."""
    assert about(600, NOW) == "done in about 10 min"
    assert about(4 * 3600, NOW) == "done about 13:30"
    assert about(20 * 3600, NOW) == "done about Thu 05:30"
    assert about(8 * 86_400, NOW) == "done about 2026-12-03"
    assert about(4 * 3600, NOW.astimezone(UTC)) == "done about 12:30"
