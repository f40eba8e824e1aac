"""How far a backfill is, in words."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from worker.backfill.progress import AccountProgress, Progress
from worker.backfill.registry import Backfill
from worker.store import Outlook
from worker.words import counted, duration, roughly

# Less than this is a wait, more is a time of the day; further off than six days, the day of the week could be either.
SOON_S = 3600.0
THIS_WEEK = timedelta(days=6)
# What is due sooner than this is on its way.
NOTHING_DUE_S = 2.0


def sentence(found: Sequence[Backfill], *, when: str | None = None) -> str:
    """How far a backfill is, without a full stop. It holds a name as it is in the database. `found`: the backfill in
    each of its accounts, one at least. `when`: what is known of when it is done."""
    name = found[0].name
    cancelled = next((one for one in found if one.cancelled_at), None)
    synced, lines, loaded = (
        sum(counts) for counts in zip(*((one.synced, one.lines, one.loaded) for one in found), strict=True)
    )
    parts = [f"{synced:,} of {counted(lines, 'change')} of {name} {'is' if lines == 1 else 'are'} synced"]
    parts[0] += "".join(_besides(found))
    if cancelled and cancelled.cancelled_at:
        parts.append(f"it was cancelled by {cancelled.cancelled_by} at {cancelled.cancelled_at.astimezone():%F %T}")
    elif any(one.unloaded for one in found):
        what = f"only {loaded:,} are loaded" if lines else "it was not read to its end"
        parts.append(f"{what}: run the same command again")
    waiting = sum(one.pending for one in found)
    if waiting and cancelled:
        verb = "is" if waiting == 1 else "are"
        again = f"caspen-sync backfill cancel {shlex.quote(name)}"
        parts.append(f"{waiting:,} {verb} not discarded yet, and sent all the same: {again}")
    elif waiting:
        parts.append(f"{waiting:,} {'waits' if waiting == 1 else 'wait'}")
        parts += [when] if when else []
    return "; ".join(parts)


def _besides(found: Sequence[Backfill]) -> Iterator[str]:
    if parked := sum(one.parked for one in found):
        yield f", {parked:,} parked"
    if outdated := sum(one.outdated for one in found):
        yield f", {outdated:,} had nothing to send (newer changes had set all of it)"
    if discarded := sum(one.given_up for one in found):
        yield f", {discarded:,} discarded"


def head(progress: Progress) -> str:
    """How many of how many."""
    percent = progress.done * 1000 // progress.changes / 10 if progress.changes else 100
    return f"{progress.done:,} of {counted(progress.changes, 'change')} ({percent:g} %)"


def details(progress: Progress, now: datetime | None = None) -> Iterator[str]:
    """What there is to say besides, the most important first."""
    if progress.fault:
        yield progress.fault
    if progress.stopping and progress.pending:
        yield "stopping: what is on the wire is waited for"
    if progress.parked:
        yield f"{progress.parked:,} parked"
    if progress.discarded:
        yield f"{progress.discarded:,} discarded"
    if progress.pending:
        several = len(progress.accounts) > 1
        for one in progress.accounts:
            if one.pending and (why := _waits_for(one.outlook, backing_off=progress.backing_off)):
                yield f"account {one.account}: {why}" if several else why
        if progress.done_in_s is not None:
            yield about(progress.done_in_s, now)
        yield from _rate(progress)
        yield _budget(progress.accounts)


def about(seconds: float, now: datetime | None = None) -> str:
    """When it is done, as precisely as is known; `now`: in the zone of whoever reads it."""
    if seconds < SOON_S:
        return f"done in about {roughly(seconds)}"
    now = now or datetime.now().astimezone()
    at = now + timedelta(seconds=seconds)
    if at.date() == now.date():
        return f"done about {at:%H:%M}"
    return f"done about {at:%a %H:%M}" if at - now < THIS_WEEK else f"done about {at:%F}"


def _waits_for(outlook: Outlook, *, backing_off: bool) -> str:
    """Empty: for nothing but its turn."""
    until = "" if outlook.paused_for_s is None else f", next probe in {duration(max(0.0, outlook.paused_for_s))}"
    match outlook.pause_kind:
        case "manual":
            return f"paused by hand ({outlook.pause_reason}), caspen-sync resume {shlex.quote(outlook.account)}"
        case "throttled":
            return f"throttled by the API, goes on in {duration(max(0.0, outlook.paused_for_s or 0.0))}"
        case "refused":
            return f"the API refuses the token ({outlook.pause_reason}){until}"
        case "rejected":
            return f"the API rejects everything ({outlook.pause_reason}){until}"
        case "down":
            return f"the API is down ({outlook.pause_reason}){until}"
        case None:
            if backing_off and not outlook.due and (outlook.ready_in_s or 0.0) > NOTHING_DUE_S:
                return f"backing off, goes on in {duration(outlook.ready_in_s or 0.0)}"
            return ""


def _rate(progress: Progress) -> Iterator[str]:
    if progress.requests_a_minute is not None:
        changes, requests = round(progress.changes_a_minute or 0), round(progress.requests_a_minute)
        yield f"{counted(requests, 'request')} and {counted(changes, 'change')} a minute"


def _budget(accounts: Sequence[AccountProgress]) -> str:
    used, budget = sum(one.used for one in accounts), sum(one.budget for one in accounts)
    reserve, held_back = sum(one.reserve for one in accounts), sum(one.held_back for one in accounts)
    kept = f", {reserve:,} kept for live changes" if reserve else ""
    others = f", {held_back:,} left to others on the key" if held_back else ""
    return f"budget {used:,} of {budget:,} in use{kept}{others}"
