"""Gauges out of a reading: what names may do, and what is said without a reading."""

from __future__ import annotations

from typing import Any

from tests.support.statuses import account, found
from worker.gauges import LONGEST_NAME, MOST_STRANGERS, gauges
from worker.status import Status, Stranger


def samples(status: Status | None) -> dict[str, dict[Any, float]]:
    """Values by family and labels."""
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in gauges(status)
    }


def strangers(*named: tuple[str, int]) -> Status:
    return Status(
        accounts=(),
        unregistered=tuple(Stranger(account=name, changes=changes, oldest_s=1.0) for name, changes in named),
        workers=(),
        age_s=3.5,
    )


def test_without_a_reading() -> None:
    """Nothing is said that is not known: only that it is not."""
    assert samples(None) == {"caspen_sync_database_up": {(): 0}}


def test_the_age_is_told() -> None:
    """How old the figures are is among them."""
    told = samples(strangers())
    assert told["caspen_sync_database_up"] == {(): 1}
    assert told["caspen_sync_reading_age_seconds"] == {(): 3.5}


def test_names_that_an_application_made_up_are_few() -> None:
    """A writer that makes up an account for each change makes no series for each: the largest are shown, all are
    counted."""
    told = samples(strangers(*((f"name_{number}", number) for number in range(1, 1001))))
    assert told["caspen_sync_unserved_accounts"] == {(): 1000}
    largest = {(f"name_{number}",): number for number in range(1001 - MOST_STRANGERS, 1001)}
    assert told["caspen_sync_unserved_changes"] == largest


def test_an_account_that_all_workers_leave_out() -> None:
    """It counts, with what is pending, for as long as other workers are alive; between two runs of a cron job no
    account has one, and that is no fault."""
    accounts = (account(live=1), account("north", live=2, backfill=3, served=False), account("south", served=False))
    alive = samples(found(*accounts))
    assert alive["caspen_sync_unserved_accounts"] == {(): 1}
    assert alive["caspen_sync_unserved_changes"] == {("north",): 5}
    nobody = samples(found(*accounts, workers=False))
    assert nobody["caspen_sync_unserved_accounts"] == {(): 0}
    assert nobody["caspen_sync_unserved_changes"] == {}


def test_names_that_come_to_the_same() -> None:
    """What steers a terminal is not passed on, long names are cut, and of two that then look alike there is one series:
    Prometheus takes no sample twice."""
    name = "x" * LONGEST_NAME
    told = samples(strangers(("a\x1b", 1), ("a\x07", 2), (name + "1", 4), (name + "2", 8)))
    assert told["caspen_sync_unserved_changes"] == {("a\N{REPLACEMENT CHARACTER}",): 3, (name,): 12}
