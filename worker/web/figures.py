"""All that the overview shows, at one moment: the verdict, and the figures that it is drawn from."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg

from worker import __version__, privacy
from worker.errors import DatabaseUnreachable
from worker.lately import Lately, lately
from worker.reading import SharedReading
from worker.status import Glance, Status, glance
from worker.trail import Point, Trail
from worker.web.access import Access
from worker.web.newest import LONGEST_S, Newest
from worker.web.verdict import Verdict, no_count, no_verdict, verdict

# Pauses, budgets and workers are looked at so often while anybody looks, in seconds: a pause shows within a second.
GLANCE_S = 0.5
# Where the database is far away, or has thousands of accounts, no more seldom than this.
GLANCE_AT_MOST_S = 2.0
# What disturbs a machine for a moment disturbs some in a row.
GLANCES = 10
# What takes counting, in seconds; see `reading` for large backlogs.
COUNTS_S = 1.0
# What counting takes has to have passed so often before it is done again for those who look: of one core, Postgres
# spends 0.5 % on how much waits, and 0.25 % on the last hour and on what is parked.
COUNTS_TIMES, LATELY_TIMES = 200, 400
# No glance waits for a count that takes long.
BRIEFLY_S = 0.1
# A count that takes longer than this leaves it open how it is.
OVERDUE_S = 10.0
# Without a glance for so long, the database does not answer.
SILENCE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How it is. Without a database, what is left is the verdict and the trail."""

    at: datetime
    version: str
    verdict: Verdict
    status: Status | None
    lately: Lately | None
    trail: tuple[Point, ...]


class Looks:
    """Puts them together; many who look at once share each reading."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        access: Access,
        counts: SharedReading[Status],
        trail: Trail,
        configured: Collection[str],
    ) -> None:
        """`pool`: for what may wait for nobody. `configured`: the accounts that the configuration names."""
        self._counts = Newest(counts, max_age_s=COUNTS_S, times=COUNTS_TIMES)
        self._lately = Newest(SharedReading(access, lately), max_age_s=COUNTS_S, times=LATELY_TIMES)
        self._glance = Newest(
            SharedReading(pool, glance, kept_at_least_s=GLANCE_S, kept_at_most_s=GLANCE_AT_MOST_S, usual_of=GLANCES),
            max_age_s=GLANCE_S,
        )
        self._trail = trail
        self._configured = configured

    async def now(self) -> Figures:
        """How it is now; waits for what is being read no longer than `newest.LONGEST_S`."""
        counted, sent, seen = await asyncio.gather(
            self._counts.get(once_known_s=BRIEFLY_S), self._lately.get(once_known_s=BRIEFLY_S), self._glance.get()
        )
        found = counted.seen_again(seen) if counted is not None and seen is not None else counted
        fault = self._fault(seen)
        if fault is not None:
            found, sent, said = None, None, no_verdict(fault)
        else:
            late = found is None or self._counts.silent_s > OVERDUE_S
            said = no_count() if found is None or late else verdict(found, self._configured)
        return Figures(
            at=datetime.now(UTC),
            version=__version__,
            verdict=said,
            status=found,
            lately=sent,
            trail=self._trail.points,
        )

    def look_anew(self) -> None:
        """Somebody has just paused an account, or let it go on."""
        self._glance.forget()

    def _fault(self, seen: Glance | None) -> str | None:
        """Why the database cannot be read, if so."""
        fault, silent_s = self._glance.fault, self._glance.silent_s
        # What answers a glance is there: a count that it ended took too long.
        if fault is None and not isinstance(self._counts.fault, DatabaseUnreachable):
            fault = self._counts.fault
        if fault is not None:
            return privacy.printable(privacy.redacted(str(fault)))
        if seen is None or silent_s > SILENCE_S:
            return f"database: no answer within {max(silent_s, LONGEST_S):.0f} s"
        return None
