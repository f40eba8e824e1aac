"""What became of the last hour's requests, and why changes are parked: what stands beside how it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import asyncpg

from worker.database import understood
from worker.sqlfiles import query

MINUTES = 60
# More reasons than this are no overview; the rest is in the list.
REASONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """The requests that began in one minute."""

    at: datetime
    requests: Mapping[str, int]
    """How many came to each outcome."""
    changes: Mapping[str, int]
    """How many changes those carried."""
    last_at: Mapping[str, datetime]
    """When the last of them began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedReason:
    """Why some changes are parked."""

    digest: str
    """By which `parked.of_reason` knows it."""
    error: str
    changes: int
    accounts: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lately:
    """Of all accounts together."""

    minutes: tuple[Minute, ...]
    """The last hour, oldest first."""
    reasons: tuple[ParkedReason, ...]
    """The one with the most changes first."""
    age_s: float = 0.0
    """How long ago it was read."""

    def later(self, seconds: float) -> Lately:
        """The same, so many seconds later."""
        return replace(self, age_s=self.age_s + seconds)


async def lately(conn: asyncpg.Connection) -> Lately:
    """Reads it in two statements, which look at an hour of requests of each account, and at all that is parked."""
    with understood():
        sent = await conn.fetch(query("sent_lately"), MINUTES)
        reasons = await conn.fetch(query("parked_reasons"), REASONS)
    return Lately(
        minutes=tuple(_minute(at, list(rows)) for at, rows in groupby(sent, key=itemgetter("minute"))),
        reasons=tuple(ParkedReason(**row) for row in reasons),
    )


def _minute(at: datetime, rows: Sequence[Mapping[str, Any]]) -> Minute:
    given = [row for row in rows if row["outcome"] is not None]
    return Minute(
        at=at,
        requests={row["outcome"]: row["requests"] for row in given},
        changes={row["outcome"]: row["changes"] for row in given},
        last_at={row["outcome"]: row["last_at"] for row in given},
    )
