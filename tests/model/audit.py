"""What must hold after a drain, by the tables, the API and the ledger: rules 1, 3, 6, 7, 8 and 9."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from tests.model.api import Api
from tests.model.ledger import Kind, Ledger, as_answered

_CHANGES = """
SELECT o.id, o.appointment_id, o.state, o.attempts, o.last_error,
       (SELECT count(*) FROM caspen_sync.attempt t
        WHERE t.account = o.account AND t.appointment_id = o.appointment_id AND o.id = ANY (t.change_ids)
          AND t.outcome IN ('synced', 'retry', 'unknown', 'rejected')) AS blamed,
       EXISTS (SELECT FROM caspen_sync.attempt t
               WHERE t.account = o.account AND t.appointment_id = o.appointment_id AND o.id = ANY (t.change_ids)
                 AND t.outcome = 'synced') AS accepted
FROM caspen_sync.outbox o WHERE o.account = $1 ORDER BY o.id
"""
_LEFT = """
SELECT (SELECT count(*) FROM caspen_sync.queue q WHERE q.account = $1 AND q.due_at < 'infinity') AS due,
       (SELECT count(*) FROM caspen_sync.queue q WHERE q.account = $1 AND q.leased_until IS NOT NULL) AS leased,
       (SELECT count(*) FROM caspen_sync.arrival a WHERE a.account = $1) AS arrived
"""
_SYNCED = """
SELECT appointment_id, resource, last_change_id, set_by, note, room_id, vehicle_id, case_id, client_id, confirmed,
       resource_ids
FROM caspen_sync.appointment WHERE account = $1
"""
_ATTEMPTS = "SELECT count(*) FROM caspen_sync.attempt WHERE account = $1"
_FORGOTTEN = """
SELECT o.id
FROM caspen_sync.outbox o
LEFT JOIN caspen_sync.queue q USING (account, appointment_id)
LEFT JOIN caspen_sync.arrival a ON a.account = o.account AND a.lane = o.lane AND a.change_id = o.id
WHERE o.account = $1 AND o.state = 'pending' AND a.change_id IS NULL AND coalesce(q.due_at, 'infinity') = 'infinity'
LIMIT 1
"""
_STATE = "SELECT state FROM caspen_sync.outbox WHERE account = $1 AND id = $2"


@dataclass(frozen=True, slots=True)
class Audit:
    """Looks at one account."""

    conn: asyncpg.Connection
    account: str
    ledger: Ledger
    api: Api

    async def meanwhile(self) -> None:
        """What must hold after every step. Rule 1: the queue knows of whatever is pending. Rule 2: an older change goes
        over a newer one only where that was given up."""
        forgotten = await self.conn.fetchval(_FORGOTTEN, self.account)
        assert forgotten is None, f"change {forgotten} is pending, and nobody will ever come for it"
        for name, field, number, newer in self.api.doubts:
            state = await self.conn.fetchval(_STATE, self.account, newer)
            given_up = state in ("parked", "discarded") or newer in self.ledger.edited
            assert given_up, f"{name}.{field}: change {number} was written over {newer}, {state}"
        self.api.doubts.clear()

    async def after_a_drain(self, *, attempts: int) -> None:
        """`attempts`: how many requests the workers have written down."""
        left = await self.conn.fetchrow(_LEFT, self.account)
        assert dict(left) == {"due": 0, "leased": 0, "arrived": 0}, f"left behind: {dict(left)}"
        rows = await self.conn.fetch(_CHANGES, self.account)
        assert [row["id"] for row in rows] == sorted(self.ledger.committed), "committed, and what the outbox has"
        for row in rows:
            self._judge_change(row)
        assert await self.conn.fetchval(_ATTEMPTS, self.account) == attempts, "attempts, and requests written back"
        synced = {row["appointment_id"]: row for row in await self.conn.fetch(_SYNCED, self.account)}
        for name in {change.appointment for change in self.ledger.committed.values()}:
            changes = [row for row in rows if row["appointment_id"] == name]
            self._judge_appointment(name, changes, synced.get(name))

    def _judge_change(self, row: Mapping[str, Any]) -> None:
        number, state, error = row["id"], row["state"], row["last_error"] or ""
        what = f"change {number} is {state} ({error})"
        kind = self.ledger.committed[number].kind
        assert state in ("synced", "parked", "discarded"), what
        assert row["attempts"] <= row["blamed"], f"{what}: charged {row['attempts']} for {row['blamed']} requests"
        if state == "synced":
            assert kind is not Kind.BREACH, what
            assert row["accepted"], f"{what}, and nobody accepted it"
        if state == "parked" and kind is Kind.GOOD:
            assert error.startswith("gave up after"), what
        if state == "discarded" and number not in self.ledger.discarded:
            assert error.startswith("superseded"), what

    def _judge_appointment(
        self, name: str, changes: Sequence[Mapping[str, Any]], synced: Mapping[str, Any] | None
    ) -> None:
        last = {
            field: row["id"] for row in changes if row["state"] == "synced" for field in self.ledger.says(row["id"])
        }
        for row in changes:
            if row["state"] == "discarded" and row["id"] not in self.ledger.discarded:
                left = {field for field in self.ledger.says(row["id"]) if last.get(field, 0) < row["id"]}
                assert not left, f"{name}: change {row['id']} is discarded, and nothing newer set {left}"
        given_up = {r["id"] for r in changes if r["state"] != "synced" or r["id"] in self.ledger.edited}
        given_up &= self.api.applied
        assert (synced is not None) is bool(last), f"{name}: synced state: {synced}"
        if synced is None:
            return
        remote, local = self.api.appointments[name], json.loads(synced["resource"])
        assert synced["last_change_id"] == max(last.values()), f"{name}: last_change_id"
        set_by = json.loads(synced["set_by"])
        for field, number in last.items():
            where = f"{name}.{field}, last said by change {number}"
            wanted = as_answered(field, self.ledger.says(number)[field])
            assert set_by.get(field) == number, f"{where}: set_by says {set_by.get(field)}"
            assert field == "starts_at" or synced[field] == local[field], f"{where}: the column is not the answer"
            # What was given up, and may have been done nevertheless, nobody can know: see "Unknown outcomes".
            if self.api.setters[name].get(field) not in given_up:
                assert remote[field] == wanted, f"{where}: the API has {remote[field]!r}, not {wanted!r}"
        assert given_up or local == remote, f"{name}: the synced state is not the API's"
