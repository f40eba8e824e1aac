"""A backfill's estimate, as a person reads it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from worker.backfill.estimate import AccountEstimate, Estimate
from worker.cli.output import Coloured
from worker.words import counted, duration, visible

HEADER = ("ACCOUNT", "REQUESTS", "BEFORE THEM", "A MINUTE", "TAKES")


def when(estimate: Estimate) -> str:
    """When it is done: `done in about 13d 2h, Tue 2026-12-08 02:51, at 53.3 requests a minute`; or why never."""
    if estimate.seconds is None or estimate.done_at is None:
        stuck = next(one for one in estimate.accounts if one.seconds is None)
        return f"as things are it is never done: {_in_the_way(stuck)}"
    at = estimate.done_at.astimezone().strftime("%a %Y-%m-%d %H:%M")
    rate = sum(one.per_minute for one in estimate.accounts if one.requests)
    takes = "less than a second" if estimate.seconds < 1 else f"about {duration(estimate.seconds)}"
    return f"done in {takes}, {at}, at {_rate(rate)} requests a minute"


def remarks(estimate: Estimate) -> Iterator[str]:
    """What that comes from, and what it leaves out: a line for each thing to know, account by account."""
    several = len(estimate.accounts) > 1
    for one in estimate.accounts:
        if one.requests:
            for text in _remarks(one):
                yield f"account {visible(one.account)}: {text}" if several else text


def pauses(estimate: Estimate) -> Iterator[str]:
    """Those that come on top of the time, account by account."""
    for one in estimate.accounts:
        if one.requests and one.pause_kind not in (None, "manual"):
            yield f"account {visible(one.account)}: {_paused(one)}; that comes on top"


def rows(estimate: Estimate) -> list[tuple[object, ...]]:
    """A table's, under HEADER."""
    return [
        (
            visible(one.account),
            f"{one.requests:,}",
            f"{one.ahead:,}",
            _rate(one.per_minute),
            Coloured("never", "red") if one.seconds is None else duration(one.seconds),
        )
        for one in estimate.accounts
    ]


def _remarks(one: AccountEstimate) -> Iterator[str]:
    window = "a minute" if one.window_s == 60 else f"in {duration(one.window_s)}"
    parts = [f"of {counted(one.budget_limit, 'request')} {window}"]
    if one.reserve:
        parts.append(f"{one.reserve:,} are reserved for live changes")
    if one.live_per_window:
        since = duration(one.live_looked_back_s)
        parts.append(f"live changes use {_rate(one.live_per_window)} (mean of the last {since})")
    if one.held_back:
        parts.append(f"{one.held_back:,} are held back, since somebody else uses the key")
    yield ", ".join(parts)
    if one.ahead:
        verb = "goes" if one.ahead == 1 else "go"
        yield f"{counted(one.ahead, 'request')} {verb} first: in the lane already, or live"
    if one.measured and not one.live_looked_back_s:
        yield "no request was made yet: what live changes will use is not known"
    if one.answer_assumed:
        yield f"an answer is assumed to take {duration(one.answer_s)}"
    if one.pause_kind is not None and one.pause_kind != "manual":
        yield f"{_paused(one)}; that comes on top"


def _paused(one: AccountEstimate) -> str:
    if one.paused_for_s is None:
        mend = f"caspen-sync resume {shlex.quote(one.account)}"
        return f"account {visible(one.account)} is paused by hand ({one.pause_reason}): {mend}"
    return f"the account is paused ({one.pause_kind}: {one.pause_reason}), for {duration(one.paused_for_s)} at least"


def _in_the_way(one: AccountEstimate) -> str:
    if one.pause_kind == "manual":
        return _paused(one)
    if one.held_back >= one.budget_limit - one.reserve:
        why = "somebody else uses its key, and all that the reserve leaves is held back"
    else:
        why = "live changes use all that the reserve leaves of its budget"
    return f"account {visible(one.account)} has nothing left for backfills, {why}"


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
