"""Simulated time, for both sides: the worker's own clock and the one that the product's SQL asks.

Our statements call now() and clock_timestamp() without a schema. On a connection whose search_path begins with
`model_time` they find the two functions below, so the SQL that runs is the product's own, letter by letter.
"""

from __future__ import annotations

import asyncpg

# Whatever it is, it is the same each time: what is drawn from a seed can be played again.
START_S = 1_893_456_000

# A sequence, since what it says is seen at once and leaves no dead rows behind, however long a writer's transaction is
# open. clock_timestamp() moves on by a microsecond with each call, as a real one does, so that no two rows are due in
# the same instant and the order of claims does not hang on where a row lies. now() stands still within a transaction.
SCHEMA = """
CREATE SCHEMA model_time;
CREATE SEQUENCE model_time.micros;
CREATE FUNCTION model_time.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT pg_catalog.to_timestamp(pg_catalog.nextval('model_time.micros') / 1e6::float8)
$$;
CREATE FUNCTION model_time.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        nullif(pg_catalog.current_setting('model_time.began', true), ''),
        pg_catalog.set_config(
            'model_time.began',
            (SELECT pg_catalog.to_timestamp(last_value / 1e6::float8) FROM model_time.micros)::text,
            true
        )
    )::timestamptz
$$;
"""
SEARCH_PATH = "model_time, pg_catalog"

_SET = "SELECT setval('model_time.micros', greatest($1, (SELECT last_value FROM model_time.micros)))"


class Clock:
    """The time of everybody in the model. The database's may be ahead by the microseconds that its calls took."""

    def __init__(self) -> None:
        self._micros = START_S * 1_000_000

    def now(self) -> float:
        """Seconds, as `worker.clock.now` tells them."""
        return self._micros / 1e6

    async def move_to(self, conn: asyncpg.Connection, at: float) -> None:
        """Lets time pass until `at`, if it is not later already."""
        self._micros = await conn.fetchval(_SET, max(self._micros, round(at * 1e6)))
