"""Ways to break the product, one rule at a time: each a text that stands once in one file, and what takes its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One of them."""

    name: str
    file: str
    good: str
    bad: str

    def commit(self, tree: Path) -> None:
        """Breaks the copy in `tree`."""
        path = tree / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(self.good) == 1, f"{self.name}: {self.file} has it {text.count(self.good)} times"
        path.write_text(text.replace(self.good, self.bad), encoding="utf-8")


SABOTAGES = (
    Sabotage(
        "older changes win a fold",
        "worker/merge.py",
        "return {name: change.changes[name] for change in changes for",
        "return {name: change.changes[name] for change in reversed(changes) for",
    ),
    Sabotage(
        "no look at the token",
        "sql/queries/settle.sql",
        "t.newest_token = t.token AND t.leased_until > clock_timestamp()",
        "t.leased_until > clock_timestamp()",
    ),
    Sabotage(
        "no look at the lease's end",
        "sql/queries/settle.sql",
        "t.newest_token = t.token AND t.leased_until > clock_timestamp()",
        "t.newest_token = t.token",
    ),
    Sabotage(
        "what arrives during a claim is forgotten",
        "sql/queries/take_in.sql",
        "newest_id = greatest(q.newest_id, excluded.newest_id)",
        "newest_id = q.newest_id",
    ),
    Sabotage(
        "a slot is free with its answer",
        "sql/queries/settle.sql",
        "clock_timestamp() + make_interval(secs => s.rest_s) AS free_at",
        "clock_timestamp() AS free_at",
    ),
    Sabotage(
        "a slot cools from when it was taken",
        "worker/store.py",
        "_rest_s(used, rest_s) - (now - used.answered_at)",
        "_rest_s(used, rest_s) - (now - used.slot.taken_at)",
    ),
    Sabotage(
        "a slot cools although nobody knows when its request counts",
        "worker/policy.py",
        "last_use.pop(one.slot.number, None)",
        "last_use[one.slot.number] = UsedSlot(slot=one.slot, answered_at=one.exchange.ended_at)",
    ),
    Sabotage(
        "no rest after an unknown outcome",
        "worker/policy.py",
        "rest = case.limits.timeout_s if isinstance(outcome, Unknown) else 0.0",
        "rest = 0.0",
    ),
    Sabotage(
        "no rest after the last request of a change that is given up",
        "worker/policy.py",
        "due_in_s=rest or None, failures=0",
        "due_in_s=None, failures=0",
    ),
    Sabotage(
        "no lock before the id",
        "sql/migrations/0002_triggers.sql",
        "ON CONFLICT (account, appointment_id) DO UPDATE SET account = excluded.account WHERE false;",
        "ON CONFLICT (account, appointment_id) DO NOTHING;",
    ),
    Sabotage(
        "a retry without a slot of its own",
        "worker/sender.py",
        "slot = delivery.slot or await self._another_slot(claim)",
        "slot = delivery.slot or claim.slot",
    ),
    Sabotage(
        "null is taken for absent",
        "worker/merge.py",
        "if name not in change.superseded]",
        "if name not in change.superseded and change.changes[name] is not None]",
    ),
    Sabotage(
        "no look at the deadline before the first byte",
        "worker/caspen.py",
        "elif self._now() >= attempt.deadline:",
        "elif self._now() >= attempt.deadline + 1e9:",
    ),
    Sabotage(
        "what was brought back during a claim is forgotten",
        "sql/queries/settle.sql",
        "WHEN q.newest_id > h.upto_id OR q.again > 0 THEN",
        "WHEN q.newest_id > h.upto_id THEN",
    ),
    Sabotage(
        "a fault of the account is charged",
        "worker/policy.py",
        "_BLAMED = (Synced, Retry, Unknown, Rejected)",
        "_BLAMED = (Synced, Retry, Unknown, Rejected, Refused, Throttled)",
    ),
    Sabotage(
        "what was brought back goes over what is newer",
        "worker/merge.py",
        "return frozenset(name for name in changes if newest.get(name, 0) > change_id)",
        "return frozenset()",
    ),
    Sabotage(
        "a settled claim is not known again",
        "sql/queries/settle.sql",
        "SET token = md5(h.token::text)::uuid,",
        "SET token = gen_random_uuid(),",
    ),
    Sabotage(
        "a bad change parks its whole fold",
        "worker/policy.py",
        "if len(case.sound) > 1 and not outcome.whole:",
        "if len(case.sound) > 1000 and not outcome.whole:",
    ),
    Sabotage(
        "who set a field is forgotten with the next answer",
        "sql/queries/settle.sql",
        "set_by = a.set_by || excluded.set_by",
        "set_by = excluded.set_by",
    ),
    Sabotage(
        "an arrival's appointment is claimed although it is held",
        "sql/queries/claim_arrival.sql",
        "WHERE q.account = v.account AND q.appointment_id = v.appointment_id AND q.due_at = 'infinity'",
        "WHERE q.account = v.account AND q.appointment_id = v.appointment_id",
    ),
)
