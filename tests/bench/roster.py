"""Who takes part, and what the benchmark has to know of each: its tables, how an application writes changes for it, and
how one counts what it has written back."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata

from tests.bench.contestants import answers
from tests.bench.work import RATE_LIMIT, TOKEN, Given


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One contestant."""

    name: str
    title: str
    module: str
    once: tuple[str, ...] = ("once",)
    """Its arguments, to work off what there is, and end."""
    serve: tuple[str, ...] = ("serve",)
    """Its arguments, to wait for more."""
    installs: bool = False
    """Whether it makes tables of its own, by the argument `install`."""
    schema: str = ""
    write: str
    """Writes one change for each appointment. In: $1 appointment ids text[], $2 the body text."""
    done: str | None
    """Counts the changes whose answers are written back and with which nothing is left to do. None: it keeps none."""
    packages: tuple[str, ...]
    """What it is made of, beside the standard library."""
    concurrency: int
    """Requests on the wire at once: of 16 to 512 what it was fastest with, or as fast as with any. Not so the bare
    limit, which has as many as caspen-sync: with 64 it was a fifth to a half faster."""
    how: str
    """How it is set, for those who read the table."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Variables of its environment, besides what every contestant is told."""

    @property
    def missing(self) -> list[str]:
        """Its packages that are not installed."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]

    @property
    def versions(self) -> str:
        """Its packages as they are installed here."""
        return ", ".join(f"{package} {metadata.version(package)}" for package in self.packages)

    def given(self, dsn: str, base_url: str, numbers: range = range(0)) -> Given:
        """What its processes are told."""
        return Given(dsn, base_url, self.concurrency, numbers)

    def variables(self, given: Given) -> dict[str, str]:
        """The environment of its processes."""
        told = {"dsn": given.dsn, "base_url": given.base_url, "concurrency": str(given.concurrency)}
        return given.variables() | {name: value.format_map(told) for name, value in self.settings.items()}


BARE = Contestant(
    name="bare",
    title="bare limit",
    module="tests.bench.contestants.bare",
    schema="CREATE TABLE bare (appointment_id text, changes jsonb)",
    write="""
        WITH written AS (
            INSERT INTO bare (appointment_id, changes)
            SELECT id, $2::text::jsonb FROM unnest($1::text[]) AS id
            RETURNING appointment_id
        )
        SELECT pg_notify('bare', appointment_id) FROM written
    """,
    done=None,
    packages=("aiohttp", "asyncpg", "uvloop"),
    concurrency=256,
    how="256 senders, as many as caspen-sync has, no database; idle: a LISTEN whose payload is the appointment",
)

# What a client without a database is fastest with here: fewer requests at once stay in the processor's caches.
BARE_64 = replace(BARE, name="bare64", title="bare limit, 64 at once", concurrency=64, how="the same with 64 senders")

CASPEN_SYNC = Contestant(
    name="caspen-sync",
    title="caspen-sync",
    module="worker",
    once=("run", "--once"),
    serve=("run",),
    write="""
        INSERT INTO caspen_sync.outbox (appointment_id, changes)
        SELECT id, $2::text::jsonb FROM unnest($1::text[]) AS id
    """,
    done="""
        SELECT count(*) FROM caspen_sync.outbox o
        JOIN caspen_sync.appointment a USING (account, appointment_id)
        WHERE o.state = 'synced' AND a.last_change_id = o.id AND a.resource IS NOT NULL
    """,
    packages=("aiohttp", "asyncpg", "uvloop"),
    concurrency=256,
    how=f"run --once, and run; concurrency 256, {RATE_LIMIT:,} requests a tenth of a second allowed",
    settings={
        "CASPEN_SYNC_DATABASE__DSN": "{dsn}",
        "CASPEN_SYNC_API__BASE_URL": "{base_url}",
        "CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN": TOKEN,
        "CASPEN_SYNC_ACCOUNTS__DEFAULT__CONCURRENCY": "{concurrency}",
        # More than can be sent, so that the budget never binds.
        "CASPEN_SYNC_ACCOUNTS__DEFAULT__RATE_LIMIT": str(RATE_LIMIT),
        "CASPEN_SYNC_ACCOUNTS__DEFAULT__RATE_WINDOW_S": "0.1",
        "CASPEN_SYNC_ACCOUNTS__DEFAULT__RATE_GUARD_S": "0",
        "CASPEN_SYNC_LOG__LEVEL": "warning",
        "CASPEN_SYNC_HTTP__LISTEN": "",
    },
)

LOOP = Contestant(
    name="loop",
    title="afternoon's loop",
    module="tests.bench.contestants.loop",
    schema="""
        CREATE TABLE outbox (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, appointment_id text NOT NULL, changes jsonb NOT NULL,
            state text NOT NULL DEFAULT 'pending', answer jsonb, finished_at timestamptz
        );
        CREATE INDEX ON outbox (id) WHERE state = 'pending'
    """,
    write="""
        WITH written AS (
            INSERT INTO outbox (appointment_id, changes) SELECT id, $2::text::jsonb FROM unnest($1::text[]) AS id
        )
        SELECT pg_notify('outbox', '')
    """,
    done="SELECT count(*) FROM outbox WHERE state = 'synced' AND answer IS NOT NULL",
    packages=("aiohttp", "asyncpg", "uvloop"),
    concurrency=256,
    how="batches of 256, each in one transaction that is open while the API answers; one connection; LISTEN",
)

PROCRASTINATE = Contestant(
    name="procrastinate",
    title="Procrastinate",
    module="tests.bench.contestants.procrastinate",
    installs=True,
    schema=answers.TABLE,
    # What its `defer` runs.
    write="""
        SELECT procrastinate_defer_jobs_v1(array_agg(
            ROW('default', 'send', 0, NULL, NULL, jsonb_build_object('appointment_id', id, 'changes', $2::text), NULL)
            ::procrastinate_job_to_defer_v1)) FROM unnest($1::text[]) AS id
    """,
    done="SELECT (SELECT count(*) FROM answer) - (SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded')",
    packages=("procrastinate", "psycopg", "aiohttp", "asyncpg", "uvloop"),
    concurrency=32,
    how="PsycopgConnector with its pool of 4, concurrency 32, delete_jobs successful; answers by a pool of 16",
)

PGQUEUER = Contestant(
    name="pgqueuer",
    title="PgQueuer",
    module="tests.bench.contestants.pgqueuer",
    installs=True,
    schema=answers.TABLE,
    # What its `enqueue` does: a job, and a line in the log of jobs.
    write="""
        WITH job AS (
            INSERT INTO pgqueuer (priority, entrypoint, payload, status)
            SELECT 0, 'send', convert_to(json_build_object('appointment_id', id, 'changes', $2::text)::text, 'UTF8'),
                   'queued'
            FROM unnest($1::text[]) AS id
            RETURNING id, entrypoint, priority
        )
        INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority)
        SELECT id, 'queued', entrypoint, priority FROM job
    """,
    done="SELECT (SELECT count(*) FROM answer) - (SELECT count(*) FROM pgqueuer)",
    packages=("pgqueuer", "aiohttp", "asyncpg", "uvloop"),
    concurrency=256,
    how="one asyncpg connection, batch_size 128, max_concurrent_tasks 256, durable; answers by a pool of 16",
)

CONTESTANTS = {c.name: c for c in (BARE, BARE_64, CASPEN_SYNC, LOOP, PROCRASTINATE, PGQUEUER)}
