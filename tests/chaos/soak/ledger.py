"""What must be true at the end of a soak, by the requests that its API got, the tables, and the books of the load. Most
of the outbox is deleted by then, so the books stand for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests.chaos.soak.load import Books, Load
from tests.support.audit import (
    assert_accounted_for,
    assert_holds,
    assert_id_order,
    assert_no_overlap,
    assert_settled,
    most_in_any_window,
)
from tests.support.servers import looked_into
from worker.sandbox import Entry


def requests(log: Path) -> list[Entry]:
    """Out of the sandbox's log file, in which each stands once it is done."""
    found = []
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            del entry["applied"]
            found.append(Entry(**entry))
    return found


def counted(entries: Sequence[Entry]) -> str:
    faults = Counter(entry.fault for entry in entries if entry.fault)
    refused = sum(entry.http_status == 422 for entry in entries)
    return f"{len(entries):,} requests, " + ", ".join(
        [f"{count:,} x {fault}" for fault, count in sorted(faults.items())] + [f"{refused:,} refused"]
    )


async def remote(api: str, books: Books) -> Mapping[str, Mapping[str, Any]]:
    """The appointments as the API has them in the end."""
    control = f"{api.rpartition('/')[0]}/_sandbox/appointments"
    found = {}
    async with aiohttp.ClientSession() as session:
        for appointment in books.fields:
            async with session.get(f"{control}/{appointment}") as answer:
                assert answer.status == 200, f"{appointment}: {answer.status}"
                found[appointment] = await answer.json()
    return found


async def audit(load: Load, entries: Sequence[Entry], held: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises AssertionError, which says which rule did not hold."""
    plan, books = load.plan, load.books
    throttled = sum(entry.throttled for entry in entries)
    assert not throttled, f"{throttled} answers of 429"
    most = most_in_any_window((entry.received_at for entry in entries), plan.window_s)
    assert most <= plan.limit, f"{most} requests in a window of {plan.limit}"
    assert_no_overlap(entries)
    # A fold that is refused goes out again in parts, the older ones first, and may have met a 503 before.
    assert_id_order(entry for entry in entries if entry.applied_at is not None)
    async with looked_into(load.dsn) as database:
        await assert_settled(database)
        dead = [row["worker"] for row in await database.rows("SELECT worker FROM caspen_sync.worker")]
        assert not dead, f"all have ended, and still said to be alive are {dead}"
        left = await database.value("SELECT count(*) FROM caspen_sync.outbox")
        assert books.written == left + books.pruned, f"{books.written} written, {left} left and {books.pruned} deleted"
        await assert_holds(database, held, books.fields)
        # Of what was finished before, the attempts may be deleted already.
        await assert_accounted_for(database, entries, since_s=books.pruned_at)
