"""Is everything synced, and if not, what is it waiting for? In one sentence."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator

from worker.status import AccountStatus, Status, Stranger
from worker.words import counted, duration, roughly, toml_key, visible

# Of more accounts the sentence would be a page; the table has them all.
ACCOUNTS_NAMED = 3


def summary(found: Status, configured: Collection[str]) -> str:
    """The sentence, without a full stop. It holds names and reasons out of the database, as they are there.
    `configured`: the accounts that the configuration names."""
    if not found.accounts and not found.unregistered:
        return "no worker has run yet; caspen-sync run --once"
    accounts = sum(one.pending for one in found.accounts)
    strangers = sum(one.changes for one in found.unregistered)
    parts = list(_reasons(found, configured))
    if not accounts + strangers:
        return "; ".join([_everything(found), *parts])
    parked = list(_parked(found))
    at_least = "at least " if any(one.uncounted for one in found.unregistered) else ""
    wait = f"{at_least}{counted(accounts + strangers, 'change')} {'waits' if accounts + strangers == 1 else 'wait'}"
    if accounts and not found.workers:
        wait += " and no worker is running"
        if any(one.pending and one.pause_kind != "throttled" for one in found.accounts):
            return "; ".join([f"{wait}: caspen-sync run --once", *parts, *parked])
    return f"{wait}: {'; '.join([*parts, *parked])}"


def _everything(found: Status) -> str:
    parked = sum(one.parked for one in found.accounts)
    if not parked:
        return "everything is synced"
    verb = "is" if parked == 1 else "are"
    return f"everything is synced but what is parked: {counted(parked, 'change')} {verb}; caspen-sync parked list"


def _parked(found: Status) -> Iterator[str]:
    if parked := sum(one.parked for one in found.accounts):
        yield f"{parked:,} parked: caspen-sync parked list"


def _reasons(found: Status, configured: Collection[str]) -> Iterator[str]:
    """What is waited for, or will be: the accounts that need a person first."""
    telling = [(one, reason) for one in found.accounts if (reason := _reason(one, found))]
    telling.sort(key=lambda pair: (not _needs_a_person(pair[0]), -pair[0].pending))
    for one, reason in telling[:ACCOUNTS_NAMED]:
        named = "" if len(found.accounts) == 1 or reason.startswith("account ") else f"account {visible(one.account)}: "
        yield f"{named}{reason}"
    if more := telling[ACCOUNTS_NAMED:]:
        yield f"and {counted(len(more), 'more account')}"
    strangers = sorted(found.unregistered, key=lambda one: one.account in configured)
    for stranger in strangers[:ACCOUNTS_NAMED]:
        yield _unregistered(stranger, configured)
    if rest := strangers[ACCOUNTS_NAMED:]:
        yield f"and {counted(len(rest), 'more account')} that no worker has taken up"


def _needs_a_person(one: AccountStatus) -> bool:
    return one.pause_kind not in (None, "throttled") or not one.served


def _reason(one: AccountStatus, found: Status) -> str:
    """Empty: there is nothing to say."""
    paused = _paused(one, among_others=len(found.accounts) + len(found.unregistered) > 1)
    if paused and (one.pending or one.pause_kind != "throttled"):
        return paused
    if not one.pending or not found.workers:
        return ""
    if not one.served:
        return (
            f"account {visible(one.account)} has no worker among those that run: {counted(one.pending, 'change')}; is "
            f"accounts.{toml_key(one.account)} in their configuration?"
        )
    # Whatever the queue knows of is one of those. A change that was made pending by hand wakes nobody.
    return ", ".join(_on_their_way(one)) or (
        "nobody is woken for them, was outbox.state set by hand? caspen-sync check says how to wake them"
    )


def _paused(one: AccountStatus, *, among_others: bool) -> str:
    account = f"account {visible(one.account)}"
    if among_others and one.pending:
        account += f" ({counted(one.pending, 'change')})"
    probe = "" if one.paused_for_s is None else f", next probe in {duration(one.paused_for_s)}"
    match one.pause_kind:
        case None:
            return ""
        case "manual":
            return f"{account} is paused by hand ({one.pause_reason}), caspen-sync resume {shlex.quote(one.account)}"
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


def _unregistered(stranger: Stranger, configured: Collection[str]) -> str:
    name, at_least = visible(stranger.account), "at least " if stranger.uncounted else ""
    if stranger.account in configured:
        return (
            f"no worker has taken up account {name} yet ({at_least}{counted(stranger.changes, 'change')}): "
            "caspen-sync run --once, or restart the service"
        )
    return (
        f"{at_least}{stranger.changes:,} for account {name}, which no configuration names: "
        f"accounts.{toml_key(stranger.account)} is missing, or the writer misspelt it"
    )
