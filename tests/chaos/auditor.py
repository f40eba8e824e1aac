"""The auditor: reads the evidence and names every violation of DESIGN.md, part 2, by the number of its rule. It shares
no code with the worker, and judges by what others saw: the API, the writers, and Postgres."""

from __future__ import annotations

import bisect
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.chaos.blame import OF_THE_ACCOUNT, bystanders, charged, not_given_back
from tests.chaos.evidence import CLOCKS_S, Event, Evidence
from tests.chaos.ledger import Committed
from tests.support.audit import most_in_any_window, same
from worker.sandbox import Entry

RULES = {
    1: "nothing is lost",
    2: "order",
    3: "final state",
    4: "budget",
    5: "fencing",
    6: "one transaction",
    7: "a bad change hurts only itself",
    8: "a fault of the account is not a fault of the change",
    9: "absent and null stay different",
    10: "no secret leaves",
}

_FINAL = {"synced", "parked", "discarded"}
# The API did not do it, and said so; but it may do it later: it has no time, or wants another token.
_NOT_NOW = {408, 425} | OF_THE_ACCOUNT


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule, broken once."""

    rule: int
    what: str

    def __str__(self) -> str:
        return f"rule {self.rule} ({RULES[self.rule]}): {self.what}"


def audit(evidence: Evidence) -> list[Violation]:
    """All violations there are."""
    return [Violation(rule, what) for rule, judge in _JUDGES for what in judge(evidence)]


# -- 1: nothing is lost ------------------------------------------------------------------------------------------------


def _lost(evidence: Evidence) -> Iterator[str]:
    states = {row["id"]: row["state"] for row in evidence.outbox}
    committed = {change.id for change in evidence.committed}
    if "synced" not in states.values():
        yield "not one change was synced, and so nothing was tried"
    for number in sorted(set(evidence.acknowledged) - {change.number for change in evidence.committed}):
        yield f"the writers' change {number} was confirmed, and Postgres has lost it"
    for change_id in sorted(committed - states.keys()):
        yield f"change {change_id} was committed, and is not there"
    for change_id in sorted(states.keys() - committed):
        yield f"change {change_id} is there, and was never committed"
    for change_id, state in states.items():
        if state not in _FINAL:
            yield f"change {change_id} is still {state} after the drain"
    for what, count in evidence.standing.items():
        if count:
            yield f"after the drain there are {count} {what}"


def _made_up(evidence: Evidence) -> Iterator[str]:
    """What is synced was accepted: by the log of attempts, and that by the log of the API."""
    accepted: dict[str, set[int]] = defaultdict(set)
    # One whose lease was lost stands twice, to the letter, when the answer to its commit got lost as well.
    attempts: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for row in evidence.attempts:
        if row["outcome"] == "synced":
            accepted[row["appointment_id"]].update(row["change_ids"])
            attempts[row["appointment_id"]].add((row["worker"], row["duration_ms"], *row["change_ids"]))
    for row in evidence.outbox:
        if row["state"] == "synced" and row["id"] not in accepted[row["appointment_id"]]:
            yield f"change {row['id']} is synced, and no attempt was"
    answered: dict[str | None, int] = defaultdict(int)
    for entry in evidence.log:
        answered[entry.appointment] += entry.http_status == 200
    for appointment, rows in attempts.items():
        if len(rows) > answered[appointment]:
            yield f"{appointment}: {len(rows)} attempts were accepted, by {answered[appointment]} answers of the API"


# -- 2: order ----------------------------------------------------------------------------------------------------------


def _overlapping(evidence: Evidence) -> Iterator[str]:
    """How long the API may be at a request that its maker has lost is promised: another timeout."""
    lost: dict[str | None, list[tuple[float, float]]] = defaultdict(list)
    for row in evidence.attempts:
        if row["http_status"] is None:
            began = row["started_at"].timestamp()
            lost[row["appointment_id"]].append((began, began + row["duration_ms"] / 1000))
    for appointment, entries in _by_appointment(evidence.log).items():
        for earlier, later in itertools.pairwise(sorted(entries, key=lambda entry: entry.received_at)):
            over_at = max(earlier.answered_at or float("inf"), earlier.applied_at or 0.0)
            for began, ended in lost[appointment]:
                if began - CLOCKS_S <= earlier.received_at <= ended:
                    over_at = min(over_at, ended + evidence.terms.timeout_s)
            if over_at > later.received_at:
                yield f"{appointment}: request {later.seq} began before {earlier.seq} was over"


def _ids_against_commits(evidence: Evidence) -> Iterator[str]:
    """For one appointment, id order is commit order."""
    newest: dict[str, tuple[datetime, int]] = {}
    for change in sorted(evidence.committed, key=lambda change: change.id):
        before = newest.get(change.appointment_id)
        if before and change.committed_at < before[0]:
            yield f"{change.appointment_id}: change {change.id} was committed before {before[1]}"
        newest[change.appointment_id] = (change.committed_at, change.id)


def _sent_backwards(evidence: Evidence) -> Iterator[str]:
    """What was refused is sent again in parts, and so older changes after newer ones; anything else goes forwards."""
    sent = [entry for entry in evidence.log if not _refused(entry) and entry.http_status not in OF_THE_ACCOUNT]
    refused = _refusals(evidence)
    for before, entry, what in _backwards(evidence, sorted(sent, key=lambda entry: entry.received_at)):
        if not any(before.seq < seq < entry.seq for seq in refused[entry.appointment]):
            yield f"{what} went out after it"


def _applied_backwards(evidence: Evidence) -> Iterator[str]:
    """A fold that was done unheard and then refused, because a person brought an older change back into it, goes out in
    parts: what the README says of that."""
    done = [entry for entry in evidence.log if entry.applied_at is not None]
    refused = _refusals(evidence)
    for before, entry, what in _backwards(evidence, sorted(done, key=lambda entry: entry.applied_at or 0.0)):
        back = evidence.brought_back.get(entry.appointment or "", ())
        in_parts = any(before.seq < seq < entry.seq for seq in refused[entry.appointment])
        if not (in_parts and any(at.timestamp() <= entry.received_at for at in back)):
            yield f"{what} took effect after it"


def _refusals(evidence: Evidence) -> Mapping[str | None, list[int]]:
    refused: dict[str | None, list[int]] = defaultdict(list)
    for entry in evidence.log:
        if _refused(entry):
            refused[entry.appointment].append(entry.seq)
    return refused


def _refused(entry: Entry) -> bool:
    return 400 <= (entry.http_status or 0) < 500 and entry.http_status not in _NOT_NOW


def _backwards(evidence: Evidence, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Entry, str]]:
    """The requests that set a field to what an older change says than the one before did, which comes first. Of several
    changes with the same value, null mostly, the oldest counts that was committed by then and is not older."""
    by_value: dict[tuple[str, str], list[tuple[Committed, Any]]] = defaultdict(list)
    for change in sorted(evidence.committed, key=lambda change: change.id):
        for field, value in change.changes.items():
            by_value[change.appointment_id, field].append((change, value))
    newest: dict[tuple[str, str], tuple[int, Entry]] = {}
    for entry in entries:
        body = entry.body if isinstance(entry.body, dict) else {}
        for field, value in body.items():
            key = (entry.appointment or "", field)
            known_at = entry.received_at + CLOCKS_S
            ids = [
                change.id
                for change, written in by_value[key]
                if written == value and change.committed_at.timestamp() <= known_at
            ]
            if not ids:
                yield entry, entry, f"{entry.appointment}: {field}, which nobody wrote,"
                continue
            newest_id, before = newest.get(key, (0, entry))
            at = bisect.bisect_left(ids, newest_id)
            if at == len(ids):
                told = f"{field} of change {newest_id} (request {before.seq}), and of {ids[-1]} (request {entry.seq})"
                yield before, entry, f"{entry.appointment}: {told}"
            newest[key] = (ids[min(at, len(ids) - 1)], entry)


# -- 3 and 9: final state ----------------------------------------------------------------------------------------------


def _final_state(evidence: Evidence) -> Iterator[str]:
    yield from _differing(evidence, nulls=False)


def _nulls(evidence: Evidence) -> Iterator[str]:
    yield from _differing(evidence, nulls=True)
    for row in evidence.synced_state:
        remote = evidence.remote.get(row["appointment_id"], {})
        if missing := sorted(remote.keys() - json.loads(row["resource"]).keys()):
            yield f"{row['appointment_id']}: of the answer {', '.join(missing)} was not kept"


def _differing(evidence: Evidence, *, nulls: bool) -> Iterator[str]:
    """Each field holds its last committed change that was not parked or discarded, at the API and in the synced state.
    `nulls`: whether those are judged that were cleared, or the others."""
    expected, newest = _expected(evidence)
    synced = {row["appointment_id"]: row for row in evidence.synced_state}
    for appointment, fields in expected.items():
        remote, local = evidence.remote.get(appointment, {}), synced.get(appointment, {})
        for field, value in fields.items():
            if (value is None) is not nulls:
                continue
            if not same(remote.get(field), value):
                yield f"{appointment}.{field} is not what change {newest[appointment, field]} says"
            if not same(local.get(field), value):
                yield f"{appointment}.{field} of the synced state is not what change {newest[appointment, field]} says"


def _synced_state(evidence: Evidence) -> Iterator[str]:
    expected, newest = _expected(evidence)
    synced = {row["appointment_id"]: row for row in evidence.synced_state}
    for appointment in sorted(synced.keys() ^ expected.keys()):
        yield f"{appointment} is synced, or has a synced state, and not both"
    for appointment in synced.keys() & expected.keys():
        row = synced[appointment]
        last = max(newest[appointment, field] for field in expected[appointment])
        if row["last_change_id"] != last:
            yield f"{appointment}: last_change_id is {row['last_change_id']}, and {last} is synced"
        said = json.loads(row["resource"])
        for field, value in evidence.remote.get(appointment, {}).items():
            if field in said and field != "updated_at" and said[field] != value:
                yield f"{appointment}: the answer that was kept is not the last one ({field})"


def _expected(evidence: Evidence) -> tuple[Mapping[str, Mapping[str, Any]], Mapping[tuple[str, str], int]]:
    """The fields of each appointment, and which change set each."""
    states = {row["id"]: row["state"] for row in evidence.outbox}
    expected: dict[str, dict[str, Any]] = defaultdict(dict)
    newest: dict[tuple[str, str], int] = {}
    # In the order of their commits and not of their ids: that the two agree is another rule.
    for change in sorted(evidence.committed, key=lambda change: (change.committed_at, change.id)):
        if states.get(change.id) == "synced":
            for field, value in change.changes.items():
                expected[change.appointment_id][field] = value
                newest[change.appointment_id, field] = change.id
    return expected, newest


# -- 4: budget ---------------------------------------------------------------------------------------------------------


def _budget(evidence: Evidence) -> Iterator[str]:
    terms = evidence.terms
    most = most_in_any_window((entry.received_at for entry in evidence.log), terms.window_s)
    if most > terms.limit:
        yield f"{most} requests in {terms.window_s} s, and {terms.limit} are allowed"
    if throttled := sum(entry.throttled for entry in evidence.log):
        yield f"{throttled} requests were answered 429, and nobody else uses the key"


# -- 5: fencing --------------------------------------------------------------------------------------------------------


def _unclaimed(evidence: Evidence) -> Iterator[str]:
    """A request comes in while somebody may speak for its appointment."""
    leases: dict[str, list[float]] = defaultdict(list)
    for event in evidence.history:
        if event.relation == "queue" and (until := event.became["leased_until"]):
            leases[event.key].append(datetime.fromisoformat(until).timestamp())
    for ends in leases.values():
        ends.sort()
    for entry in evidence.log:
        ends = leases[entry.appointment or ""]
        at = bisect.bisect_left(ends, entry.received_at - CLOCKS_S)
        if at == len(ends) or entry.received_at < ends[at] - evidence.terms.lease_s - CLOCKS_S:
            yield f"{entry.appointment}: request {entry.seq} came in while nobody held a claim"


def _written_unfenced(evidence: Evidence) -> Iterator[str]:
    """Who writes back holds the claim, and it has not run out."""
    for xid, events in _by_transaction(evidence.history).items():
        writers = {event.became["worker"] for event in events if event.relation == "attempt"}
        released = set()
        for event in events:
            if event.relation != "queue" or not event.was or not event.was["leased_until"]:
                continue
            if event.became["leased_until"]:
                continue
            released.add(event.key)
            over_s = (event.at - datetime.fromisoformat(event.was["leased_until"])).total_seconds()
            if over_s > CLOCKS_S:
                yield f"{event.key}: written back {over_s:.1f} s after its claim had run out (transaction {xid})"
            if writers and event.was["worker"] not in writers:
                yield f"{event.key}: written back by one who did not hold the claim (transaction {xid})"
        for event in events:
            if _settles(event) and event.key not in released:
                yield f"{event.key}: {event.relation} was written, and no claim ended (transaction {xid})"


def _taken_over(evidence: Evidence) -> Iterator[str]:
    """Nobody claims what another one still holds."""
    for event in evidence.history:
        if event.relation != "queue" or not event.was or event.became["token"] == event.was["token"]:
            continue
        held, leased = event.was["leased_until"], event.became["leased_until"]
        if held and leased and (left_s := (datetime.fromisoformat(held) - event.at).total_seconds()) > CLOCKS_S:
            yield f"{event.key}: claimed {left_s:.1f} s before somebody's lease was over (transaction {event.xid})"


def _settles(event: Event) -> bool:
    """Whether only the holder of a claim writes this."""
    if event.relation == "appointment":
        return True
    was, became = event.was, event.became
    if event.relation != "outbox" or was is None or was["state"] != "pending":
        return False
    return became["state"] in ("synced", "parked") or became["attempts"] > was["attempts"]


# -- 6: one transaction ------------------------------------------------------------------------------------------------


def _split(evidence: Evidence) -> Iterator[str]:
    for xid, events in _by_transaction(evidence.history).items():
        synced = [e for e in events if e.relation == "outbox" and _settles(e) and e.became["state"] == "synced"]
        states = {event.key: event for event in events if event.relation == "appointment"}
        attempted = {
            (event.key, change_id)
            for event in events
            if event.relation == "attempt" and event.became["outcome"] == "synced"
            for change_id in event.became["change_ids"]
        }
        if synced and not any(event.relation == "rate_slot" for event in events):
            yield f"transaction {xid} wrote what was synced, and freed no slot"
        for event in synced:
            change_id = event.became["id"]
            state = states.get(event.key)
            if state is None or state.became["last_change_id"] < change_id:
                yield f"change {change_id} became synced without the synced state (transaction {xid})"
            if (event.key, change_id) not in attempted:
                yield f"change {change_id} became synced without its attempt (transaction {xid})"
        for key in states.keys() - {event.key for event in synced}:
            yield f"{key}: the synced state was written, and no change with it (transaction {xid})"


# -- 10: no secret leaves ----------------------------------------------------------------------------------------------


def _secrets(evidence: Evidence) -> Iterator[str]:
    for where, texts in (("what a process said", evidence.said), ("what is written down to be read", evidence.told)):
        for text in texts:
            if any(secret in text for secret in evidence.secrets):
                yield f"a secret stands in {where}"


_JUDGES: Sequence[tuple[int, Callable[[Evidence], Iterator[str]]]] = (
    (1, _lost),
    (1, _made_up),
    (2, _overlapping),
    (2, _ids_against_commits),
    (2, _sent_backwards),
    (2, _applied_backwards),
    (3, _final_state),
    (3, _synced_state),
    (4, _budget),
    (5, _unclaimed),
    (5, _written_unfenced),
    (5, _taken_over),
    (6, _split),
    (7, bystanders),
    (8, charged),
    (8, not_given_back),
    (9, _nulls),
    (10, _secrets),
)


def _by_appointment(log: Sequence[Entry]) -> Mapping[str | None, list[Entry]]:
    found: dict[str | None, list[Entry]] = defaultdict(list)
    for entry in log:
        found[entry.appointment].append(entry)
    return found


def _by_transaction(history: Sequence[Event]) -> Mapping[int, list[Event]]:
    found: dict[int, list[Event]] = defaultdict(list)
    for event in history:
        found[event.xid].append(event)
    return found
