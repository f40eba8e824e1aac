"""Is everything synced, and if not, what is it waiting for? In one sentence."""

from __future__ import annotations

from collections.abc import Iterator

from worker.status import STRANGERS_COUNTED, AccountStatus, Status, Stranger
from worker.words import counted, duration, roughly

# Of more accounts the sentence would be a page; the table has them all.
ACCOUNTS_NAMED = 3


def summary(found: Status) -> str:
    """The sentence, without a full stop. It holds names and reasons out of the database, as they are there."""
    if not found.accounts and not found.unregistered:
        return "no worker has run yet; caspen-sync run --once"
    accounts = sum(one.pending for one in found.accounts)
    strangers = sum(one.changes for one in found.unregistered)
    parts = list(_reasons(found))
    if not accounts + strangers:
        return "; ".join([_everything(found), *parts])
    at_least = "at least " if any(map(_uncounted, found.unregistered)) else ""
    wait = f"{at_least}{counted(accounts + strangers, 'change')} {'waits' if accounts + strangers == 1 else 'wait'}"
    if accounts and not found.workers:
        wait += " and no worker is running: caspen-sync run --once"
        return "; ".join([wait, *parts])
    return f"{wait}: {'; '.join(parts)}"


def _everything(found: Status) -> str:
    parked = sum(one.parked for one in found.accounts)
    if not parked:
        return "everything is synced"
    verb = "is" if parked == 1 else "are"
    return f"everything is synced but what is parked: {counted(parked, 'change')} {verb}; caspen-sync parked list"


def _reasons(found: Status) -> Iterator[str]:
    """What is waited for, or will be: the accounts that need a person first."""
    telling = [(one, reason) for one in found.accounts if (reason := _reason(one, found))]
    telling.sort(key=lambda pair: (not _needs_a_person(pair[0]), -pair[0].pending))
    for one, reason in telling[:ACCOUNTS_NAMED]:
        named = "" if len(found.accounts) == 1 or reason.startswith("account ") else f"account {one.account}: "
        yield f"{named}{reason}"
    if more := telling[ACCOUNTS_NAMED:]:
        yield f"and {counted(len(more), 'more account')}"
    for stranger in found.unregistered[:ACCOUNTS_NAMED]:
        yield _unregistered(stranger)
    if rest := found.unregistered[ACCOUNTS_NAMED:]:
        yield f"and {counted(len(rest), 'more account')} that no configuration names"


def _needs_a_person(one: AccountStatus) -> bool:
    return one.pause_kind not in (None, "throttled") or not one.served


def _reason(one: AccountStatus, found: Status) -> str:
    """Empty: there is nothing to say."""
    paused = _paused(one)
    if paused and (one.pending or one.pause_kind != "throttled"):
        return paused
    if not one.pending or not found.workers:
        return ""
    if not one.served:
        return (
            f"account {one.account} has no worker among those that run: {counted(one.pending, 'change')}; is "
            f"accounts.{one.account} in their configuration?"
        )
    # Whatever the queue knows of is one of those. A change that was made pending by hand wakes nobody.
    return ", ".join(_on_their_way(one)) or "nobody is woken for them, was outbox.state set by hand?"


def _paused(one: AccountStatus) -> str:
    account = f"account {one.account}"
    probe = "" if one.paused_for_s is None else f", next probe in {duration(one.paused_for_s)}"
    match one.pause_kind:
        case None:
            return ""
        case "manual":
            return f"{account} is paused by hand ({one.pause_reason}), caspen-sync resume {one.account}"
        case "throttled":
            return f"{account} is throttled by the API, goes on in {duration(one.paused_for_s or 0.0)}"
        case "refused":
            return f"{account} is paused, the API refused its token ({one.pause_reason}){probe}"
        case "rejected":
            return (
                f"{account} is paused, the API rejects everything ({one.pause_reason}), is api.base_url right?{probe}"
            )
        case "down":
            return f"{account} is paused, the API is down ({one.pause_reason}){probe}"


def _on_their_way(one: AccountStatus) -> Iterator[str]:
    """Of an account that a worker works off. Requests are by appointment, so that is what is counted here."""
    if one.done_in_s is not None:
        at_least = "at least " if one.arrived else "about "
        yield (
            f"{counted(one.due, 'appointment')} for budget ({counted(one.budget_limit, 'request')} "
            f"{_window(one.window_s)}: done in {at_least}{roughly(one.done_in_s)})"
        )
    elif one.due:
        yield f"{counted(one.due, 'appointment')} {'goes' if one.due == 1 else 'go'} out now"
    if one.in_flight:
        yield f"{one.in_flight:,} on the wire"
    if one.waiting:
        verb = "backs" if one.waiting == 1 else "back"
        yield f"{one.waiting:,} {verb} off (next in {duration(one.next_due_s or 0.0)})"
    if one.arrived:
        yield f"{counted(one.arrived, 'change')} just arrived"


def _window(seconds: float) -> str:
    return "a minute" if seconds == 60 else f"in {duration(seconds)}"


def _uncounted(stranger: Stranger) -> bool:
    return stranger.changes >= STRANGERS_COUNTED


def _unregistered(stranger: Stranger) -> str:
    name, at_least = stranger.account, "at least " if _uncounted(stranger) else ""
    return (
        f"{at_least}{stranger.changes:,} for account {name}, which no configuration names: accounts.{name} is missing, "
        "or the writer misspelt it"
    )
