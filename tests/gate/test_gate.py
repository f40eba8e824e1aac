"""The gate itself: what it says of costs that moved, and how it reads what goes over the wire."""

from __future__ import annotations

import tomllib

import pytest

from tests.gate.baseline import COMMAND, Costs, moved, told, written
from tests.gate.plans import EVERY_NODE, rows_read
from tests.gate.wire import Connection, Wire
from worker.sqlfiles import query

BASELINE: dict[str, Costs] = {
    "drain": {
        "per_request": {"wal_bytes": 3000.0, "dead_tuples": 6.0},
        "statements": {"claim": 17, "settle": 16, "SET x": 1},
        "wal_bytes_per_request": {"queue": 582.0},
    }
}


def measured(**costs: float) -> dict[str, Costs]:
    """The baseline, but for these costs."""
    return {
        scenario: {kind: {**values, **{n: costs[n] for n in values.keys() & costs}} for kind, values in kinds.items()}
        for scenario, kinds in BASELINE.items()
    }


def test_what_costs_the_same_has_not_moved() -> None:
    """Nor has WAL by a hair."""
    assert moved(BASELINE, measured()) == []
    assert moved(BASELINE, measured(wal_bytes=3020.0, queue=577.0)) == []


@pytest.mark.parametrize(
    ("cost", "now", "says"),
    [
        ("settle", 17, "dearer: drain, statements, settle: 17, was 16 (+6.2%)"),
        ("claim", 16, "cheaper: drain, statements, claim: 16, was 17 (-5.9%)"),
        ("wal_bytes", 3070.0, "dearer: drain, per_request, wal_bytes: 3070, was 3000 (+2.3%)"),
        ("queue", 565.0, "cheaper: drain, wal_bytes_per_request, queue: 565, was 582 (-2.9%)"),
        ("dead_tuples", 6.1, "dearer: drain, per_request, dead_tuples: 6.1, was 6 (+1.7%)"),
        ("SET x", 0, "cheaper: drain, statements, SET x: 0, was 1 (gone)"),
    ],
)
def test_what_moved_is_told_with_how_far_and_what_to_do(cost: str, now: float, says: str) -> None:
    """In either direction."""
    found = moved(BASELINE, measured(**{cost: now}))
    assert [str(one) for one in found] == [says]
    assert says in told(found, BASELINE)
    assert COMMAND in told(found, BASELINE)


def test_a_cost_that_nobody_knew_of_is_dearer() -> None:
    """One statement more; and what is dearer is told first."""
    more = {"drain": {**BASELINE["drain"], "statements": {"claim": 16, "settle": 16, "SET x": 1, "wake": 16}}}
    assert [str(one)[:7] for one in moved(BASELINE, more)] == ["dearer:", "cheaper"]


def test_only_what_was_measured_is_compared() -> None:
    """Each test measures its own scenarios."""
    assert moved({**BASELINE, "other": {"statements": {"claim": 1}}}, measured()) == []


def test_the_baseline_is_read_as_it_was_written() -> None:
    """Names of any kind, and three places."""
    read = tomllib.loads(written(measured(wal_bytes=3000.12345), {"drain": "A drain."}))
    read.pop("taken_with")
    assert read == measured(wal_bytes=3000.12)


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


START = (8 + 1).to_bytes(4, "big") + (3 << 16).to_bytes(4, "big") + b"\0"
FLUSH = message(b"H")


def prepare(name: bytes, text: str) -> bytes:
    """As asyncpg does it, without a Sync."""
    return message(b"P", name + b"\0" + text.encode() + b"\0\0\0") + message(b"D", b"S" + name + b"\0") + FLUSH


def run(name: bytes, times: int = 1) -> bytes:
    """A prepared statement, as often in one round trip."""
    bind, execute = message(b"B", b"\0" + name + b"\0\0\0\0\0\0\0"), message(b"E", b"\0\0\0\0\0")
    return (bind + execute) * times + message(b"S")


def connected(wire: Wire) -> tuple[Connection, list[bytes]]:
    """A connection to a server that answers at once, and what its client is told."""
    told: list[bytes] = []

    def answer(asked: bytes) -> None:
        connection.from_server(message(b"n") if asked.endswith(FLUSH) else message(b"D") + message(b"Z", b"I"))

    connection = Connection(wire, to_server=answer, to_client=told.append)
    return connection, told


async def let_through(wire: Wire) -> int:
    """All that waits, one by one; returns how many."""
    count = 0
    while tell := await wire.next_answer():
        tell()
        count += 1
    return count


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_statements_and_round_trips_are_counted_however_they_are_cut(size: int) -> None:
    """Starting, preparing and heartbeats are not counted, nor what follows a heartbeat; two statements in one go are
    one round trip."""
    wire = Wire()
    connection, told = connected(wire)
    asked = START + prepare(b"s1", "SELECT 7") + run(b"s1") + run(b"s1", 2) + message(b"Q", b"BEGIN;\0")
    asked += prepare(b"s2", query("heartbeat")) + run(b"s2") + message(b"Q", b"SELECT pg_advisory_unlock_all();\0")
    for start in range(0, len(asked), size):
        connection.from_client(asked[start : start + size])
    assert await let_through(wire) == len(told) == 8
    assert wire.traffic.statements == {"SELECT 7": 3, "BEGIN": 1}
    assert wire.traffic.round_trips == 3


async def test_questions_go_through_one_by_one_in_an_order_of_their_own() -> None:
    """Whichever was read first; and nobody is told of a notification before it is his turn."""
    wire = Wire()
    (one, told_one), (other, told_other) = connected(wire), connected(wire)
    one.from_client(START)
    other.from_client(START)
    await let_through(wire)
    one.from_client(prepare(b"s", query("settle")))
    other.from_client(prepare(b"s", query("claim")))
    await let_through(wire)
    one.from_client(run(b"s"))
    other.from_client(run(b"s"))
    one.from_server(message(b"A", b"caspen_sync"))
    told_one.clear()
    told_other.clear()
    order = []
    while tell := await wire.next_answer():
        tell()
        order.append((len(told_one), len(told_other)))
    assert order == [(1, 0), (1, 1), (2, 1)]
    assert wire.notifications == 1


def test_a_plan_is_read_with_what_it_threw_away() -> None:
    """Rows of our tables, in every loop; and of all nodes, where a join that compares everything with everything
    shows."""
    scan = {"Node Type": "Index Scan", "Schema": "caspen_sync", "Relation Name": "queue", "Actual Rows": 2.0}
    scan |= {"Actual Loops": 3, "Rows Removed by Filter": 1}
    join = {"Node Type": "Nested Loop", "Actual Rows": 4.0, "Actual Loops": 1, "Rows Removed by Join Filter": 60}
    update = {"Node Type": "ModifyTable", "Schema": "caspen_sync", "Relation Name": "queue", "Actual Rows": 4.0}
    update |= {"Actual Loops": 1, "Plans": [join | {"Plans": [scan]}]}
    assert rows_read(update) == {"queue": 9, EVERY_NODE: 9 + 64 + 4}
