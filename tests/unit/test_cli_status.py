"""The table of `caspen-sync status`, without a database."""

from __future__ import annotations

import pytest

from tests.support.statuses import account, found
from worker.cli.output import Colour
from worker.cli.status import lines
from worker.status import STRANGERS_COUNTED, Status, Stranger


def tagged(text: str, colour: Colour) -> str:
    return f"<{colour}>{text}"


def said(it_is: Status) -> list[str]:
    return lines(it_is, tagged, ["default", "north"])


@pytest.mark.parametrize(
    ("it_is", "colour"),
    [
        (found(account(), workers=False), "green"),
        (found(account(live=1, oldest_s=890, served=False), workers=False), "yellow"),
        (found(account(live=1, oldest_s=910, served=False), workers=False), "red"),
        (found(account(), account("north", live=1, oldest_s=110, served=False)), "yellow"),
        (found(account(), account("north", live=1, oldest_s=130, served=False)), "red"),
        (found(account(live=1, oldest_s=910, due=1)), "yellow"),
        (found(account(live=1, pause_kind="down", pause_reason="503", paused_for_s=9)), "red"),
        (found(account(parked=1)), "red"),
        (found(account(), strangers=(Stranger(account="north", changes=1, oldest_s=890),)), "yellow"),
        (found(account(), strangers=(Stranger(account="north", changes=1, oldest_s=910),)), "red"),
        (found(account(), strangers=(Stranger(account="nroth", changes=1, oldest_s=1),)), "red"),
    ],
)
def test_the_colour(it_is: Status, colour: Colour) -> None:
    """Red is for what a person has to see to. Between two runs of a cron job that is not yet so."""
    assert said(it_is)[0].startswith(f"<{colour}>")


def test_80_columns() -> None:
    """They show how each account is, however long its name and a reason are; all of a name's blanks are seen."""
    paused = account("n" * 50, pause_kind="manual", pause_reason="r" * 300)
    _, _, header, first, second, *_ = said(found(paused, account("b ")))
    assert header.split()[:2] == ["ACCOUNT", "STATE"]
    assert first.startswith("n" * 39 + "\N{HORIZONTAL ELLIPSIS}  <red>paused by hand: rrr")
    assert len(first) < 200
    assert second.startswith('"b "  ')


def test_a_total_of_what_is_not_all_counted() -> None:
    """Is so much, or more."""
    *_, total, _, _ = said(
        found(account(live=1), strangers=(Stranger(account="x", changes=STRANGERS_COUNTED, oldest_s=1),))
    )
    assert total.split()[:4] == ["total", "10001", "or", "more"]
