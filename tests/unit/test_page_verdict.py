"""What the page says in one line, and why: for a clinic's manager, who knows neither queues nor tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.statuses import account, found
from worker.claims import PauseKind
from worker.status import STRANGERS_COUNTED, AccountStatus, Status, Stranger
from worker.web.verdict import Trouble, no_count, no_verdict, verdict

ALL = "All changes have reached Caspen"
NROTH = Stranger(account="nroth", changes=3, oldest_s=10.0)
DEFAULT = ("default",)
STOPPING: list[PauseKind] = ["refused", "rejected", "down", "manual"]


def headline(it_is: Status, *configured: str) -> tuple[str, str]:
    said = verdict(it_is, configured or DEFAULT)
    return said.level, said.headline


def troubles(it_is: Status, *configured: str) -> Sequence[Trouble]:
    return verdict(it_is, configured or DEFAULT).troubles


def paused(name: str = "default", kind: PauseKind = "refused", **figures: object) -> AccountStatus:
    reason = figures.pop("pause_reason", "401 Unauthorized")
    return account(name, pause_kind=kind, pause_reason=reason, paused_for_s=40.0, **figures)


@pytest.mark.parametrize(
    ("it_is", "level", "said"),
    [
        (found(), "well", ALL),
        (found(account()), "well", ALL),
        (found(account("a"), account("b")), "well", ALL),
        (found(account(served=False), workers=False), "well", ALL),
        (found(account(live=1)), "busy", "1 change is on its way to Caspen"),
        (found(account("a", live=1), account("b", backfill=1203)), "busy", "1,204 changes are on their way to Caspen"),
        (found(account(parked=1)), "person", "1 change needs a decision; all others have reached Caspen"),
        (
            found(account("a", parked=1), account("b", parked=2)),
            "person",
            "3 changes need a decision; all others have reached Caspen",
        ),
        (found(account(live=2, parked=1)), "busy", "2 changes are on their way to Caspen"),
        (found(paused(live=1)), "stopped", "1 change has not reached Caspen"),
        (found(paused(live=4, backfill=1)), "stopped", "5 changes have not reached Caspen"),
        (found(paused("a", live=4), account("b", live=1)), "stopped", "4 of 5 changes cannot reach Caspen now"),
        (found(account(live=2, served=False), workers=False), "stopped", "2 changes have not reached Caspen"),
        (found(paused()), "stopped", "Nothing waits, but new changes would not reach Caspen"),
        (
            found(paused("a"), account("b")),
            "stopped",
            "Nothing waits, but new changes of some accounts would not reach Caspen",
        ),
        (found(paused("a"), paused("b")), "stopped", "Nothing waits, but new changes would not reach Caspen"),
        (found(paused(parked=1)), "stopped", "1 change needs a decision, but new changes would not reach Caspen"),
        (
            found(paused("a"), account("b", live=5)),
            "stopped",
            "5 changes are on their way, but new ones of some accounts would not reach Caspen",
        ),
        (found(account(), strangers=(NROTH,)), "stopped", "3 changes have not reached Caspen"),
        (
            found(strangers=(Stranger(account="x", changes=STRANGERS_COUNTED, oldest_s=1.0),)),
            "stopped",
            "At least 10,000 changes have not reached Caspen",
        ),
    ],
)
def test_the_headline(it_is: Status, level: str, said: str) -> None:
    """Each level in its words, singular and plural, and with how many there are in all accounts together."""
    assert headline(it_is) == (level, said)


@pytest.mark.parametrize("kind", STOPPING)
@pytest.mark.parametrize("pending", [0, 3])
def test_each_pause_stops(kind: PauseKind, pending: int) -> None:
    """What makes nothing go out for a while is an alarm, whether something waits just now or not."""
    it_is = found(paused(kind=kind, live=pending))
    (why,) = troubles(it_is)
    assert headline(it_is)[0] == "stopped"
    assert (why.urgent, why.account, why.ends, why.ends_in_s) == (True, "default", "next try", 40.0)
    assert why.what.endswith(" (401 Unauthorized)")
    assert why.mend


@pytest.mark.parametrize(
    ("kind", "what", "mend"),
    [
        ("refused", "Caspen refuses the access token", "Put a valid token into its file"),
        ("rejected", "Caspen rejects every change", "Is api.base_url right?"),
        ("down", "Caspen is out of order", "Nothing has to be done"),
        ("manual", "A person has stopped the sending", "Resume it"),
        ("throttled", "Caspen asked to wait before the next changes", "Nothing has to be done"),
    ],
)
def test_what_to_do_about_a_pause(kind: PauseKind, what: str, mend: str) -> None:
    """Each kind says what happened and what a person can do; of several accounts it says in which."""
    (alone,) = troubles(found(paused(kind=kind)))
    assert alone.what.startswith(what)
    assert alone.mend.startswith(mend)
    assert "default" not in alone.what
    (one_of_two,) = troubles(found(account("a"), paused("b", kind)))
    assert one_of_two.what.startswith(f"{what} for account b")


def test_every_kind_of_pause_is_tested() -> None:
    """A new one has to be given its words."""
    assert {*STOPPING, "throttled"} == set(get_args(PauseKind))


def test_throttled_is_no_alarm() -> None:
    """It ends by itself, and soon: changes are on their way."""
    it_is = found(paused(kind="throttled", live=3))
    assert headline(it_is) == ("busy", "3 changes are on their way to Caspen")
    (why,) = troubles(it_is)
    assert (why.urgent, why.ends, why.ends_in_s) == (False, "goes on", 40.0)
    assert headline(found(paused(kind="throttled"))) == ("well", ALL)


@pytest.mark.parametrize("kind", get_args(PauseKind))
def test_a_pause_that_nobody_is_there_to_end(kind: PauseKind) -> None:
    """Paused, and no service works for it: both are said, since neither would be enough to mend."""
    it_is = found(paused(kind=kind, live=3, served=False), workers=False)
    assert headline(it_is) == ("stopped", "3 changes have not reached Caspen")
    whats = [one.what for one in troubles(it_is)]
    assert len(whats) == 2
    assert "No service works for account default: 3 changes" in whats
    assert verdict(it_is, DEFAULT).details == "Nothing is lost: what waits is kept in the database."


def test_nobody_works_for_it() -> None:
    """Where something waits, it is an alarm that names the setting; between two runs of a cron job it is none."""
    (why,) = troubles(found(account("dr. x", live=1, served=False), account("b")))
    assert why.what == "No service works for account dr. x: 1 change"
    assert why.mend == 'Is accounts."dr. x" in the configuration of a service that runs?'
    assert why.urgent
    assert troubles(found(account("dr. x", served=False), account("b"))) == ()


def test_what_nobody_retries_is_not_said_to_be_retried() -> None:
    """Without a service, what failed is not tried again: nobody is told that nothing has to be done."""
    (why,) = troubles(found(account(live=1, waiting=1, next_due_s=5.0, served=False), workers=False))
    assert why.urgent


def test_an_account_that_no_configuration_names() -> None:
    """An alarm, with how many changes, the setting that is missing, and the other thing that it may be."""
    (why,) = troubles(found(account(), strangers=(NROTH,)))
    assert why.what == "3 changes for account nroth, which no configuration names"
    assert why.mend == "Add accounts.nroth, or mend the application that writes this name."
    assert why.urgent
    many = Stranger(account=" ", changes=STRANGERS_COUNTED, oldest_s=1.0)
    (why,) = troubles(found(strangers=(many,)))
    assert why.what == 'At least 10,000 changes for account " ", which no configuration names'


def test_an_account_that_is_new() -> None:
    """The configuration names it: no alarm, but changes on their way, and what to do if that lasts."""
    it_is = found(account(), strangers=(NROTH,))
    assert headline(it_is, "default", "nroth") == ("busy", "3 changes are on their way to Caspen")
    (why,) = troubles(it_is, "default", "nroth")
    assert (why.what, why.urgent) == ("Account nroth is new: 3 changes", False)
    assert why.mend.startswith("Restart the service")
    many = found(strangers=(Stranger(account="nroth", changes=STRANGERS_COUNTED, oldest_s=1.0),))
    assert headline(many, "nroth") == ("busy", "At least 10,000 changes are on their way to Caspen")
    assert troubles(many, "nroth")[0].what == "Account nroth is new: at least 10,000 changes"


@pytest.mark.parametrize(
    ("parked", "what"),
    [(1, "1 change is parked: Caspen does not take it"), (1204, "1,204 changes are parked: Caspen does not take them")],
)
def test_parked(parked: int, what: str) -> None:
    """Says what that means and what a person does with them, beside their list."""
    (why,) = troubles(found(account(parked=parked)))
    assert (why.what, why.parked, why.urgent, why.account) == (what, True, False, None)
    assert why.mend == "Read why; then have them sent again, or discard them."


def test_what_failed_and_will_be_tried_again() -> None:
    """All accounts together, until the first of them; the page of the account is named where there is only one."""
    (why,) = troubles(found(account(live=1, waiting=1, next_due_s=12.0)))
    assert why.what == "1 appointment failed and will be tried again"
    assert (why.ends, why.ends_in_s, why.account, why.urgent) == ("next try", 12.0, "default", False)
    (why,) = troubles(
        found(account("a", live=1, waiting=1, next_due_s=12.0), account("b", live=9, waiting=4, next_due_s=3.0))
    )
    assert (why.what, why.ends_in_s, why.account) == ("5 appointments failed and will be tried again", 3.0, None)
    (why,) = troubles(found(account("a"), account("b", live=9, waiting=4, next_due_s=3.0)))
    assert why.account == "b"


def test_what_waits_for_a_pause_is_told_by_the_pause() -> None:
    """No next try is promised while there is none."""
    assert len(troubles(found(paused(live=1, waiting=1, next_due_s=12.0)))) == 1


def test_somebody_else_uses_the_token() -> None:
    """How much is left to them of how much, in all accounts together; no alarm."""
    (why,) = troubles(found(account(held_back=3)))
    assert why.what == "Somebody else uses the access token: 3 of 60 requests are left to them"
    assert (why.account, why.urgent) == ("default", False)
    (why,) = troubles(found(account("a", held_back=3), account("b")))
    assert why.what == "Somebody else uses the access token of account a: 3 of 60 requests are left to them"
    (why,) = troubles(found(account("a", held_back=3), account("b", held_back=1), account("c", held_back=1)))
    assert why.what == (
        "Somebody else uses the access token of account a and 2 others: 5 of 180 requests are left to them"
    )
    assert why.account is None


def test_the_order() -> None:
    """What stops changes comes first, then what a person has to decide, then what ends by itself: a page shows only the
    first of many."""
    it_is = found(
        paused("a", "throttled", live=1),
        account("b", parked=2, live=3, waiting=1, next_due_s=1.0, held_back=2),
        paused("c", "manual"),
        account("d", live=1, served=False),
        strangers=(NROTH, Stranger(account="known", changes=1, oldest_s=0.0)),
    )
    said = [one.what.split(" (")[0] for one in troubles(it_is, "known")]
    assert said == [
        "A person has stopped the sending for account c",
        "No service works for account d: 1 change",
        "3 changes for account nroth, which no configuration names",
        "2 changes are parked: Caspen does not take them",
        "Caspen asked to wait before the next changes for account a",
        "Account known is new: 1 change",
        "1 appointment failed and will be tried again",
        "Somebody else uses the access token of account b: 2 of 60 requests are left to them",
    ]


@pytest.mark.parametrize(
    ("it_is", "said"),
    [
        (found(account(live=9)), ""),
        (found(account(live=9, done_in_s=725.0)), "The last of them goes out in about 12 min 5 s"),
        (found(account(live=9, arrived=1, done_in_s=60.0)), "The last of them goes out in at least 1 min"),
        (found(account(live=9, waiting=1, done_in_s=60.0)), "The last of them goes out in at least 1 min"),
        (
            found(account("a", live=9, done_in_s=60.0), paused("b", "throttled", live=1)),
            "The last of them goes out in at least 1 min",
        ),
        (
            found(account("a", live=9, done_in_s=5.0, in_flight=1), account("b", live=9, done_in_s=9.0)),
            "The last of them goes out in about 9 s; 1 appointment being sent now",
        ),
        (found(account(live=9, in_flight=8)), "8 appointments being sent now"),
        (found(paused(live=9)), "Nothing is lost: what waits is kept in the database."),
        (
            found(paused("a", live=9), account("b", live=1)),
            "1 is on the way; the others are kept in the database.",
        ),
        (
            found(paused("a", live=9), account("b", live=1200)),
            "1,200 are on the way; the others are kept in the database.",
        ),
        (
            found(paused("a", live=9), paused("b", "throttled", live=1)),
            "1 is on the way; the others are kept in the database.",
        ),
        (found(paused("a"), account("b", live=5, done_in_s=9.0)), "The last of them goes out in about 9 s"),
    ],
)
def test_the_details(it_is: Status, said: str) -> None:
    """How long it takes, at the least where nobody can know; of what is stopped, that it is not lost; and never that
    there are others where there are none."""
    assert verdict(it_is, DEFAULT).details == said


def test_new_accounts_are_among_what_is_on_the_way() -> None:
    """What stops one account does not stop changes of one that is taken up soon."""
    it_is = found(paused("a", live=9), strangers=(NROTH,))
    assert verdict(it_is, ("a", "nroth")).details.startswith("3 are on the way")
    assert verdict(it_is, ("a",)).details == "Nothing is lost: what waits is kept in the database."


@pytest.mark.parametrize(
    ("it_is", "says"),
    [
        (found(account()), "All changes had reached Caspen 40 s ago"),
        (found(account(parked=1)), "1 change needs a decision; all others had reached Caspen 40 s ago"),
        (found(paused()), "As of 40 s ago"),
    ],
)
def test_an_old_count_is_told_as_such(it_is: Status, says: str) -> None:
    """Where counting takes long, something may have been written since: nobody is told that nothing waits now, and what
    a browser's tab shows says so, too."""
    fresh, old = verdict(it_is.later(1.0), DEFAULT), verdict(it_is.later(40.0), DEFAULT)
    assert "ago" not in f"{fresh.headline} {fresh.details}"
    assert says in (old.headline, old.details)
    assert "have reached" not in old.headline


def test_troubles_are_known_again() -> None:
    """Each has a key of its own that stays while its numbers change: what is focused in one must not come into another
    one."""
    one = found(
        paused("a", live=1), account("b", live=2, served=False), account("c", waiting=1, parked=3), strangers=(NROTH,)
    )
    other = found(
        paused("a", live=7), account("b", live=9, served=False), account("c", waiting=5, parked=8), strangers=(NROTH,)
    )
    keys = [trouble.key for trouble in troubles(one)]
    assert all(keys)
    assert len(set(keys)) == len(keys)
    assert keys == [trouble.key for trouble in troubles(other)]


def test_long_reasons_are_clipped() -> None:
    """A reason is a sentence; one that is a document, or a name of any length, does not fill the page."""
    (why,) = troubles(found(paused(pause_reason="x" * 5000)))
    assert why.what == f"Caspen refuses the access token ({'x' * 299}…)"
    name = "n" * 5000
    (why,) = troubles(found(strangers=(Stranger(account=name, changes=1, oldest_s=0.0),)))
    assert why.what == f"1 change for account {'n' * 79}…, which no configuration names"
    assert len(why.mend) < 200
    for it_is in (found(paused(name), account()), found(account(name, live=1, served=False))):
        assert all(len(one.what) < 200 and one.account == name for one in troubles(it_is))


def test_a_pause_without_a_reason() -> None:
    """Said so, rather than an empty pair of brackets."""
    (why,) = troubles(found(paused(kind="manual", pause_reason=None)))
    assert why.what == "A person has stopped the sending (no reason was given)"


def test_thousands_of_accounts() -> None:
    """Each that is stopped is among the troubles; what is told of all together stays one line."""
    accounts = [
        paused(f"a{number}", "down", live=1) if number % 2 else account(f"a{number}", live=1, waiting=1, parked=1)
        for number in range(4000)
    ]
    said = verdict(found(*accounts), DEFAULT)
    assert said.headline == "2,000 of 4,000 changes cannot reach Caspen now"
    assert said.details == "2,000 are on the way; the others are kept in the database."
    assert [one.urgent for one in said.troubles] == [True] * 2000 + [False] * 2
    assert said.troubles[0].what.startswith("Caspen is out of order for account a1 (")


ACCOUNTS = st.builds(
    account,
    st.sampled_from(["a", "b", "c"]),
    live=st.integers(0, 2),
    backfill=st.integers(0, 2),
    parked=st.integers(0, 2),
    waiting=st.integers(0, 2),
    arrived=st.integers(0, 1),
    held_back=st.integers(0, 2),
    served=st.booleans(),
    pause_kind=st.sampled_from([None, *get_args(PauseKind)]),
    done_in_s=st.none() | st.floats(0.1, 1e6),
)
STRANGERS = st.builds(
    Stranger, account=st.sampled_from(["known", "odd"]), changes=st.integers(1, 3), oldest_s=st.just(1.0)
)


@given(st.lists(ACCOUNTS, max_size=4), st.lists(STRANGERS, max_size=2))
def test_all_is_well_only_if_it_is(accounts: list[AccountStatus], strangers: list[Stranger]) -> None:
    """Whatever comes together: all is said to have reached Caspen only where nothing waits, is parked or is stopped;
    what stops something makes it an alarm, and nothing else does."""
    it_is = found(*accounts, strangers=tuple(strangers))
    said = verdict(it_is, ("known",))
    pending = sum(one.pending for one in accounts) + sum(one.changes for one in strangers)
    stopped = any(one.pause_kind in STOPPING or (one.pending and not one.served) for one in accounts) or any(
        one.account == "odd" for one in strangers
    )
    parked = any(one.parked for one in accounts)
    assert (said.level == "stopped") == stopped == any(one.urgent for one in said.troubles)
    assert (said.headline == ALL) == (said.level == "well") == (not (pending or parked or stopped))
    assert not pending or ("have reached" not in said.headline and "Nothing waits" not in said.headline)
    assert not parked or "Nothing waits" not in said.headline
    assert [one.urgent for one in said.troubles] == sorted((one.urgent for one in said.troubles), reverse=True)


def test_without_a_database() -> None:
    """Nothing is claimed; the fault is said, and that nothing is lost."""
    said = no_verdict("database: no answer")
    assert (said.level, said.headline) == ("unknown", "It cannot be said whether changes have reached Caspen")
    assert "Nothing is lost" in said.details
    assert [(one.what, one.urgent) for one in said.troubles] == [("database: no answer", True)]


def test_before_the_first_count() -> None:
    """Nothing is claimed, and that it takes a moment is said."""
    said = no_count()
    assert (said.level, said.troubles) == ("unknown", ())
    assert "reached" not in said.headline
