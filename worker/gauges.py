"""How it is, as gauges for Prometheus: what all processes share, out of one reading of the database.

Labels are accounts, of which there are as many as configurations name, and our own words. An account that no worker
has taken up may be anything an application writes, so only the largest few of those become a series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

from prometheus_client.core import GaugeMetricFamily, Metric

from worker.claims import PauseKind
from worker.metrics import PREFIX
from worker.privacy import printable
from worker.status import AccountStatus, Status

# Of the accounts that no worker has, and the longest that a name of theirs may be.
MOST_STRANGERS = 10
LONGEST_NAME = 60

_OF_EACH_ACCOUNT: Mapping[str, tuple[str, Callable[[AccountStatus], float]]] = {
    "oldest_pending_age_seconds": ("Age of the oldest pending change; 0 without any.", lambda one: one.oldest_s or 0.0),
    "parked_changes": ("Refused changes that wait for a person.", lambda one: one.parked),
    "appointments_in_flight": ("Appointments that a process holds.", lambda one: one.in_flight),
    "appointments_backing_off": ("Appointments that wait after a failure.", lambda one: one.waiting),
    "budget_limit": ("Requests in a window: configured, or less if the API says so.", lambda one: one.budget_limit),
    "budget_free": ("Requests that could be sent now.", lambda one: one.budget_free),
    "budget_used": ("Requests on the wire, or within the last window.", lambda one: one.budget_used),
    "budget_held_back": ("Requests left out, since somebody else uses the key.", lambda one: one.held_back),
    "budget_window_seconds": ("The API's window.", lambda one: one.window_s),
}


def gauges(status: Status | None) -> Iterator[Metric]:
    """The families. `None`: the database could not be read; then there is one, which says so."""
    yield _one("database_up", "Whether what all processes share could be read from the database.", int(bool(status)))
    if status is None:
        return
    yield _one("reading_age_seconds", "How long ago the gauges of all processes were read.", status.age_s)
    yield _one("workers", "Processes that are alive.", len(status.workers))
    yield _backlog(status)
    for name, (help_text, value) in _OF_EACH_ACCOUNT.items():
        family = _family(name, help_text, "account")
        for one in status.accounts:
            family.add_metric([one.account], value(one))
        yield family
    yield _paused(status)
    yield from _unserved(status)


def _backlog(status: Status) -> Metric:
    family = _family("backlog_changes", "Pending changes.", "account", "lane")
    for one in status.accounts:
        family.add_metric([one.account, "live"], one.live)
        family.add_metric([one.account, "backfill"], one.backfill)
    return family


def _paused(status: Status) -> Metric:
    family = _family("account_paused", "Whether the account is paused for this.", "account", "kind")
    for one in status.accounts:
        for kind in get_args(PauseKind):
            family.add_metric([one.account, kind], int(one.pause_kind == kind))
    return family


def _unserved(status: Status) -> Iterator[Metric]:
    changes_of = [(one.account, one.changes) for one in status.unregistered]
    # Between two runs of a cron job no account has a worker, and that is no fault.
    if status.workers:
        changes_of += [(one.account, one.pending) for one in status.accounts if one.pending and not one.served]
    yield _one("unserved_accounts", "Accounts that have changes and that no worker works for.", len(changes_of))
    family = _family("unserved_changes", "Changes of the largest of those; 10000 may be more.", "account")
    largest = sorted(changes_of, key=lambda pair: (-pair[1], pair[0]))[:MOST_STRANGERS]
    changes: Counter[str] = Counter()
    for account, count in largest:
        changes[printable(account)[:LONGEST_NAME]] += count
    for name, count in changes.items():
        family.add_metric([name], count)
    yield family


def _one(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", help_text, value=value)


def _family(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", help_text, labels=labels)
