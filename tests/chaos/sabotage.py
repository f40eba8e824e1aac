"""The product with one of its rules broken, each time another one: what the auditor must find. Each sabotage is a few
words of `worker/` or `sql/`, in a copy, and the weather in which it shows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from tests.chaos import hands
from tests.chaos.evidence import Terms

HERE = Path(__file__).parents[2]

_CALM: Mapping[str, Any] = {"processes": {}, "surroundings": {}, "faults": {}, "guilty": 0.0}
# There is always more for each of them.
_FEW: Mapping[str, Any] = {"appointments": 15}
# The budget binds.
BUSY: Mapping[str, Any] = _CALM | {"per_s": 100.0, "appointments": 400}
# Leases of 2.5 s.
_SHORT: Mapping[str, Any] = {"terms": Terms(limit=60, window_s=1.0, guard_s=0.05, timeout_s=1.0), "latency_s": 0.4}
LOSING: Mapping[str, Any] = (
    _CALM | _FEW | _SHORT | {"surroundings": {"database_lost": hands.database_lost}, "workers": 1}
)
FREEZING: Mapping[str, Any] = _CALM | _FEW | _SHORT | {"processes": {"freeze": hands.freeze}}
# Frozen between a request and one of its quick retries, of which there are more here than by default.
RETRYING: Mapping[str, Any] = FREEZING | {
    "faults": {"http_503": 0.4},
    "latency_s": 0.05,
    "appointments": 30,
    "seconds": 20.0,
    "settings": {"RETRY__QUICK_ATTEMPTS": "10"},
}
# Nothing goes wrong but that the API is away now and then, for long enough to be noticed.
OUTAGES: Mapping[str, Any] = _CALM | {
    "surroundings": {"api_away": hands.api_away},
    "seconds": 12.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sabotage:
    """What is broken, where, and by which rules that must be noticed: one of them is enough."""

    name: str
    file: str
    """Of `worker/` or `sql/`; or a function of the schema."""
    was: str | tuple[str, ...]
    instead: str | tuple[str, ...]
    rules: frozenset[int]
    weather: Mapping[str, Any] = field(default_factory=lambda: _CALM)

    @property
    def of_the_schema(self) -> bool:
        return "/" not in self.file

    def copy(self, folder: Path) -> Path:
        """A broken copy of `worker/` and `sql/`."""
        for part in ("worker", "sql"):
            shutil.copytree(HERE / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        if not self.of_the_schema:
            file = folder / self.file
            file.write_text(self._broken(file.read_text("utf-8")), "utf-8")
        return folder

    async def alter(self, conn: asyncpg.Connection) -> None:
        """Breaks the function of the schema, if it is one."""
        if self.of_the_schema:
            text = await conn.fetchval("SELECT pg_get_functiondef($1::text::regproc)", self.file)
            await conn.execute(self._broken(text))

    def _broken(self, text: str) -> str:
        was, instead = ((one,) if isinstance(one, str) else one for one in (self.was, self.instead))
        for before, after in zip(was, instead, strict=True):
            assert text.count(before) == 1, f"{self.name}: {self.file} has changed; {before!r} is not there once"
            text = text.replace(before, after)
        return text


SABOTAGES = [
    # -- 1: nothing is lost
    Sabotage(
        name="what came meanwhile is forgotten",
        file="sql/queries/settle.sql",
        was="WHEN q.newest_id > h.upto_id OR q.again > 0 THEN clock_timestamp()",
        instead="WHEN q.again > 0 THEN clock_timestamp()",
        rules=frozenset({1}),
        weather=_CALM | _FEW,
    ),
    Sabotage(
        name="an appointment that is known is not woken",
        file="sql/queries/take_in.sql",
        was="WHEN q.due_at = 'infinity' AND excluded.newest_id > q.newest_id",
        instead="WHEN false",
        rules=frozenset({1}),
        weather=_CALM | _FEW,
    ),
    Sabotage(
        name="who is stopped gives nothing back",
        file="worker/policy.py",
        was="due_in_s=0.0 if left else None,\n        failures=claim.failures,",
        instead="due_in_s=1e6 if left else None,\n        failures=claim.failures,",
        rules=frozenset({1}),
        weather=BUSY | {"processes": {"deploy": hands.deploy}, "latency_s": 0.5},
    ),
    # -- 2: order
    Sabotage(
        name="no lock before the id",
        file="caspen_sync.outbox_id",
        was="ON CONFLICT (account, appointment_id) DO UPDATE SET account = excluded.account WHERE false",
        instead="ON CONFLICT (account, appointment_id) DO NOTHING",
        rules=frozenset({2}),
        weather=_CALM | _FEW,
    ),
    Sabotage(
        name="a lease shorter than a request",
        file="worker/intake.py",
        was="self._lease_s = times.lease_s(settings.api.timeout_s)",
        instead="self._lease_s = 0.2",
        rules=frozenset({2, 5}),
        weather=_CALM | _FEW | _SHORT,
    ),
    Sabotage(
        name="no rest after an unknown outcome",
        file="worker/policy.py",
        was="rest = case.limits.timeout_s if isinstance(outcome, Unknown) else 0.0",
        instead="rest = 0.0",
        rules=frozenset({2}),
        weather=_CALM | _FEW | {"faults": {"late_apply": 0.3}},
    ),
    # -- 3: final state
    Sabotage(
        name="older changes win in a fold",
        file="worker/merge.py",
        was="return {name: change.changes[name] for change in changes for name in _to_send(change)}",
        instead="return {name: change.changes[name] for change in reversed(changes) for name in _to_send(change)}",
        rules=frozenset({2, 3}),
        weather=_CALM | _FEW,
    ),
    # -- 4: budget
    Sabotage(
        name="a slot is free when its answer is there",
        file="sql/queries/settle.sql",
        was="clock_timestamp() + make_interval(secs => s.rest_s) AS free_at",
        instead="clock_timestamp() AS free_at",
        rules=frozenset({4}),
        weather=BUSY,
    ),
    Sabotage(
        name="a slot cools from when it was taken",
        file="sql/queries/settle.sql",
        was="SELECT s.account, s.slot, clock_timestamp() + make_interval(secs => s.rest_s) AS free_at, s.throttled",
        instead="SELECT s.account, s.slot, s.taken - interval '4 s' AS free_at, s.throttled",
        rules=frozenset({4}),
        weather=BUSY | {"surroundings": {"api_far": hands.api_far}},
    ),
    Sabotage(
        name="a slot is not taken",
        file="sql/queries/claim.sql",
        was="SET free_at = m.slot_free_at",
        instead="SET free_at = now()",
        rules=frozenset({4}),
        weather=BUSY | {"processes": {"kill": hands.kill}},
    ),
    Sabotage(
        name="a retry takes no slot of its own",
        file="worker/sender.py",
        was="slot = delivery.slot or await self._another_slot(claim)",
        instead="slot = delivery.slot or claim.slot",
        rules=frozenset({4}),
        weather=BUSY | {"faults": {"http_503": 0.4}},
    ),
    # -- 5: fencing
    Sabotage(
        name="the token is not looked at",
        file="sql/queries/settle.sql",
        was="t.newest_token = t.token AND t.leased_until > clock_timestamp()",
        instead="t.leased_until > clock_timestamp()",
        rules=frozenset({5}),
        weather=FREEZING,
    ),
    Sabotage(
        name="the end of the lease is not looked at",
        file="sql/queries/settle.sql",
        was="t.newest_token = t.token AND t.leased_until > clock_timestamp()",
        instead="t.newest_token = t.token",
        rules=frozenset({5}),
        weather=FREEZING | {"workers": 1},
    ),
    Sabotage(
        name="changes of a lost claim are written",
        file="sql/queries/settle.sql",
        was="WHERE k.held[v.nth]",
        instead="WHERE true",
        rules=frozenset({5}),
        weather=LOSING,
    ),
    Sabotage(
        name="the answer of a lost claim is written",
        file="sql/queries/settle.sql",
        was="WHERE k.held[r.nth]",
        instead="WHERE true",
        rules=frozenset({5}),
        weather=LOSING,
    ),
    Sabotage(
        name="a request starts however old its claim is",
        file="worker/times.py",
        was=("return min(slot.taken_at + timeout_s, lease_ends - timeout_s)", "return deadline - now >= timeout_s / 2"),
        instead=("return lease_ends + 1e6", "return True"),
        rules=frozenset({2, 4, 5}),
        weather=RETRYING,
    ),
    # -- 6: one transaction
    Sabotage(
        name="the write-back is two transactions",
        file="worker/store.py",
        was="""                rows = await conn.fetch(query("settle"), *columns)
                heard_again""",
        instead="""                first, second = [*columns], [*columns]
                first[20:28], second[0:20] = [[]] * 8, [[]] * 20
                rows = await conn.fetch(query("settle"), *first)
                await conn.fetch(query("settle"), *second)
                heard_again""",
        rules=frozenset({6}),
    ),
    # -- 7: a bad change hurts only itself
    Sabotage(
        name="a refusal parks the whole fold",
        file="worker/policy.py",
        was="if len(case.sound) > 1 and not outcome.whole:",
        instead="if False:",
        rules=frozenset({7}),
        weather=_CALM | _FEW | {"guilty": 0.1},
    ),
    Sabotage(
        name="a breach parks its neighbours",
        file="worker/merge.py",
        was="        if problems:\n            breaches.append",
        instead="        if problems or breaches:\n            breaches.append",
        rules=frozenset({7}),
        weather=_CALM | _FEW | {"guilty": 0.1},
    ),
    # -- 8: a fault of the account is not a fault of the change
    Sabotage(
        name="a refused token parks changes",
        file="worker/answers.py",
        was="if status in _THE_TOKEN:",
        instead="if False:",
        rules=frozenset({7, 8}),
        weather=_CALM | {"surroundings": {"token_withdrawn": hands.token_withdrawn}},
    ),
    Sabotage(
        name="a refused token costs an attempt",
        file="worker/policy.py",
        was="return self.pending(reason) if self.charged else ()",
        instead="return tuple(_verdict(change, None, 1, reason) for change in self.sound)",
        rules=frozenset({8}),
        weather=_CALM | {"surroundings": {"token_withdrawn": hands.token_withdrawn}},
    ),
    Sabotage(
        name="what an outage cost is not given back",
        file="sql/queries/reinstate.sql",
        was="attempts = greatest(0, o.attempts - r.charged)",
        instead="attempts = o.attempts",
        rules=frozenset({8}),
        weather=OUTAGES,
    ),
    # -- 9: absent and null stay different
    Sabotage(
        name="null is left out",
        file="worker/merge.py",
        was="return [name for name in change.changes if name not in change.superseded]",
        instead="return [n for n in change.changes if n not in change.superseded and change.changes[n] is not None]",
        rules=frozenset({9}),
    ),
    Sabotage(
        name="only documented fields of an answer are kept",
        file="worker/policy.py",
        was="resource=outcome.text,",
        instead="resource=outcome.resource.documented(),",
        rules=frozenset({9}),
    ),
    # -- 10: no secret leaves
    Sabotage(
        name="a change that is refused is quoted",
        file="worker/policy.py",
        was='change, "parked", case.charged, outcome.reason, outcome.messages)',
        instead='change, "parked", case.charged, str(change.changes), outcome.messages)',
        rules=frozenset({10}),
        weather=_CALM | _FEW | {"guilty": 0.1},
    ),
]
