"""Whose fault it is, for the auditor: what one change is to blame for, its account, or the API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from tests.chaos.evidence import CLOCKS_S, Event, Evidence

# What the account is to blame for, whatever the worker took it for.
OF_THE_ACCOUNT = {401, 403, 429}
# Outcomes by which the API is there.
_HEARD = {"synced", "rejected"}


def bystanders(evidence: Evidence) -> Iterator[str]:
    guilt = {change.id: change.guilt for change in evidence.committed}
    for row in evidence.outbox:
        state, its = row["state"], guilt.get(row["id"])
        if its is None and state != "synced":
            yield f"change {row['id']} is {state}, and nothing was wrong with it"
        if its == "contract" and state == "synced":
            yield f"change {row['id']} breaks the contract, and is synced"
    for said in evidence.said:
        if "Traceback" in said:
            yield "a process ended with a traceback: " + said[said.index("Traceback") :][-600:]


def charged(evidence: Evidence) -> Iterator[str]:
    """What the account, the network on the way there and other people's requests are to blame for costs no attempt."""
    blamed: dict[int, int] = defaultdict(int)
    for row in evidence.attempts:
        if row["http_status"] not in OF_THE_ACCOUNT:
            for change_id in row["change_ids"]:
                blamed[change_id] += 1
    for row in evidence.outbox:
        if row["attempts"] > blamed[row["id"]]:
            yield f"change {row['id']} was charged {row['attempts']} attempts, and had {blamed[row['id']]}"


@dataclass(frozen=True, slots=True)
class _Outage:
    """A pause of an account since the API was down."""

    account: str
    began_at: float
    """When the last answer before it was written down."""
    ended_at: float
    ended_by: int
    """The transaction that wrote down the answer to its probe."""


def not_given_back(evidence: Evidence) -> Iterator[str]:
    """An API that is down costs no change an attempt: neither the failures in a row for which the account was paused,
    nor what was under way then, nor what was sent to look whether it is back."""
    attempts = [event for event in evidence.history if event.relation == "attempt"]
    outages = list(_outages(evidence))
    blamed: dict[int, int] = defaultdict(int)
    for event in attempts:
        if event.became["http_status"] in OF_THE_ACCOUNT:
            continue
        if not any(_belongs_to(outage, event, attempts) for outage in outages):
            for change_id in event.became["change_ids"]:
                blamed[change_id] += 1
    for row in evidence.outbox:
        if row["state"] == "synced" and row["attempts"] > blamed[row["id"]]:
            yield (
                f"{row['appointment_id']}: change {row['id']} was charged {row['attempts']} attempts, and "
                f"{blamed[row['id']]} of its requests were accepted, refused, or made while the API was not down"
            )


def _belongs_to(outage: _Outage, failure: Event, attempts: Sequence[Event]) -> bool:
    """Whether it failed in that outage, and nothing better was heard between it and the probe's answer."""
    if failure.became["outcome"] in _HEARD or failure.became["account"] != outage.account:
        return False
    if not outage.began_at + CLOCKS_S < failure.at.timestamp() < outage.ended_at - CLOCKS_S:
        return False
    return not any(
        event.became["outcome"] in _HEARD
        and event.became["account"] == outage.account
        and event.xid != outage.ended_by
        and _answered_at(failure) - CLOCKS_S < _answered_at(event) < outage.ended_at
        for event in attempts
    )


def _outages(evidence: Evidence) -> Iterator[_Outage]:
    heard_at: dict[str, float] = defaultdict(float)
    began_at: dict[str, float] = {}
    for event in evidence.history:
        account, at = event.became["account"], event.at.timestamp()
        if event.relation == "attempt" and event.became["outcome"] in _HEARD:
            heard_at[account] = at
        if event.relation == "account" and event.was:
            was, now = (row["pause_kind"] == "down" for row in (event.was, event.became))
            if now and not was:
                began_at[account] = heard_at[account]
            elif was and not now:
                yield _Outage(account, began_at.pop(account), at, event.xid)


def _answered_at(attempt: Event) -> float:
    """When its answer came, or was waited for no more."""
    began = datetime.fromisoformat(attempt.became["started_at"]).timestamp()
    return began + attempt.became["duration_ms"] / 1000
