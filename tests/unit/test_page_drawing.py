"""What is drawn: what costs most to draw only when it changed, and then for certain; and what looks like an alarm."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import get_args

import pytest

from tests.support.statuses import NOW, account, found
from worker.claims import PauseKind
from worker.lately import MINUTES, Lately, Minute, ParkedReason
from worker.trail import Point
from worker.web.figures import Figures
from worker.web.overview import SECTIONS, sections_of
from worker.web.rendering import rendered
from worker.web.verdict import verdict

REASON = ParkedReason(digest="d", error="422 room_id", changes=2, accounts=1, first_at=NOW, last_at=NOW)


def lately(accepted: int = 1, *reasons: ParkedReason) -> Lately:
    """As it is read, each time anew."""
    minutes = tuple(
        Minute(at=NOW + timedelta(minutes=number), requests={"synced": accepted}, changes={"synced": 1}, last_at={})
        for number in range(MINUTES)
    )
    return Lately(minutes=minutes, reasons=reasons)


def figures(pending: int = 1, sent: Lately | None = None) -> Figures:
    status = found(account(live=pending))
    return Figures(
        at=NOW,
        version="1",
        verdict=verdict(status, ["default"]),
        status=status,
        lately=sent,
        trail=tuple(Point(NOW + timedelta(seconds=number), number, 0.0) for number in range(pending)),
    )


def test_every_section_is_drawn_at_first() -> None:
    """Without an earlier drawing there is each of them, under its id."""
    sections = sections_of(figures())
    assert tuple(sections) == SECTIONS
    assert all(f'id="{name}"' in html for name, html in sections.items())


def test_what_was_read_once_is_drawn_once() -> None:
    """Older by a second, but the same: the table of reasons and the bars are left as they are."""
    sent = lately(1, REASON)
    before, after = figures(1, sent), figures(2, sent.later(1.0))
    assert set(SECTIONS) - set(sections_of(after, before)) == {"parked", "requests"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, lately(1, REASON)),
        (lately(1, REASON), None),
        (lately(1, REASON), lately(2, REASON)),
        (lately(1, REASON), lately(1)),
        (lately(1, REASON), lately(1, replace(REASON, changes=1))),
        (None, None),
    ],
)
def test_what_changed_is_drawn(before: Lately | None, after: Lately | None) -> None:
    """Whatever was drawn before, with what is drawn again it is as if all of it were."""
    earlier, now = figures(5, before), figures(6, after)
    assert {**sections_of(earlier), **sections_of(now, earlier)} == sections_of(now)


@pytest.mark.parametrize("kind", get_args(PauseKind))
def test_a_pause_that_ends_by_itself_is_no_alarm(kind: PauseKind) -> None:
    """Where an account or an appointment is looked up, as in the overview."""
    shown = rendered("stopped.html", one=account(pause_kind=kind, pause_reason="a reason", paused_for_s=4.0))
    assert "a reason" in shown
    assert ("notice bad" in shown) == (kind != "throttled")
    assert f"{'goes on' if kind == 'throttled' else 'next try'} in 4 s" in shown


def test_who_is_not_served_is_an_alarm() -> None:
    """And who is served and not paused is none of them."""
    assert "notice bad" in rendered("stopped.html", one=account(served=False))
    assert not rendered("stopped.html", one=account()).strip()
