"""Canaries: what a test uses as a token or as a value of a body, and what must therefore never be said by any process.

`sing` makes values canaries for the running test, `watch` looks for them in what was said, and `audit` looks at the end
for those that a test wrote by SQL of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

# The note of a change whose value does not matter to its test.
NOTE = "Mrs Canary coughs"

# Shorter ones, and numbers of fewer digits, stand in many a line that has nothing to do with them.
SHORTEST = 6
FEWEST_DIGITS = 11

# Values of tests that are words of ours, too.
_WORDS = frozenset({"backfill", "refused", "integer", "string", "sandbox"})

_canaries: set[str] = set()
_said: list[tuple[str, str]] = []


class Leaked(AssertionError):
    """A process said what it must not, or tried to."""


def forget() -> None:
    """A new test begins."""
    _canaries.clear()
    _said.clear()


def sing(*values: Any) -> None:
    """Makes canaries of all strings, and of long numbers, in these values: texts, or whole bodies."""
    _canaries.update(text for text in _texts(values) if text not in _WORDS and not text.startswith("app_"))


def sing_password(url: str) -> None:
    """The same for the password in a URL."""
    password = urlsplit(url).password or ""
    sing(password, unquote(password))


def watch(said: str, *, where: str) -> None:
    """Raises Leaked when this text, said at `where`, holds a canary or tells of a log field that is not declared."""
    _said.append((where, said))
    _look(said, where)


def said_anything() -> bool:
    """Whether this test heard anything yet."""
    return any(text for _, text in _said)


async def audit(dsn: str) -> None:
    """At the end of a test with a database: values that it wrote by whatever way are canaries too, for everything that
    was said in the test and for what the worker wrote down for people to read. Raises Leaked."""
    conn = await asyncpg.connect(dsn)
    try:
        if await conn.fetchval("SELECT to_regclass('caspen_sync.outbox')") is None:
            return
        await conn.execute("SET lock_timeout = '5s'")
        if said_anything():
            sing(*(row["text"] for row in await conn.fetch(_WRITTEN)))
        for row in await conn.fetch(_SHOWN):
            _look(row["text"], row["place"])
    finally:
        await conn.close()
    for where, text in _said:
        _look(text, where)


# Bodies, and answers, of which the worker must not say anything either.
_WRITTEN = """
SELECT DISTINCT value #>> '{}' AS text FROM (SELECT changes FROM caspen_sync.outbox LIMIT 20000) o,
    jsonb_path_query(changes, 'strict $.**') value WHERE jsonb_typeof(value) = 'string'
UNION
SELECT cancellation_note FROM caspen_sync.appointment WHERE cancellation_note IS NOT NULL
"""
_SHOWN = """
SELECT DISTINCT 'outbox.last_error' AS place, last_error AS text FROM caspen_sync.outbox WHERE last_error IS NOT NULL
UNION SELECT 'attempt.error', error FROM caspen_sync.attempt WHERE error IS NOT NULL
UNION SELECT 'account.pause_reason', pause_reason FROM caspen_sync.account WHERE pause_reason IS NOT NULL
UNION SELECT 'pg_stat_activity.application_name', application_name FROM pg_stat_activity
"""


def _look(said: str, where: str) -> None:
    lines = said.splitlines()
    for canary in _canaries:
        if canary in said:
            line = next((line for line in lines if canary in line), "")
            raise Leaked(f"{where} holds {canary!r}: {line[:2000]}")
    for line in lines:
        if '"withheld": [' in line or "withheld=[" in line:
            raise Leaked(f"{where} tells of a field that worker.privacy does not declare: {line[:2000]}")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) >= SHORTEST:
            yield value
    elif isinstance(value, int) and not isinstance(value, bool):
        if value >= 10 ** (FEWEST_DIGITS - 1):
            yield str(value)
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, Iterable):
        for item in value:
            yield from _texts(item)
