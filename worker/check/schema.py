"""The schema: its migrations, the triggers that writers depend on, and the versions of the workers."""

from __future__ import annotations

import asyncpg

from worker import __version__
from worker.check.finding import Finding, failed, ok, skipped, warning
from worker.config import Settings
from worker.migrate import known_migrations, require_current_schema
from worker.sqlfiles import query
from worker.status import ALIVE_S

TRIGGERS = ("outbox_id", "outbox_arrival", "outbox_notify")


async def schema(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """That it is the one this program was written for. Raises what `require_current_schema` raises."""
    await require_current_schema(conn)
    return [ok("schema", f"at migration {known_migrations()[-1].number}, as this program needs")]


async def versions(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """That the workers that run are of one version, this program's."""
    running = [row["version"] for row in await conn.fetch(query("workers"), ALIVE_S)]
    others = sorted({version for version in running if version != __version__})
    if others:
        return [
            warning(
                "version",
                f"this is {__version__}, and workers of version {', '.join(others)} are running",
                "install one version on all hosts, and restart the services",
            )
        ]
    return [ok("version", f"{__version__}, and so are all workers that run: {len(running)}")]


async def triggers(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """That what an application inserts gets its id, arrives and wakes the workers."""
    rows = await conn.fetch(query("check_triggers"))
    fires = {row["name"]: row["fires"] for row in rows}
    if not fires and "outbox" not in {row["name"] for row in await conn.fetch(query("check_tables"))}:
        return [skipped("triggers", "needs the schema")]
    missing = [name for name in TRIGGERS if name not in fires]
    idle = [name for name in TRIGGERS if not fires.get(name, True)]
    if missing:
        return [
            failed(
                "triggers",
                f"caspen_sync.outbox has lost its trigger {', '.join(missing)}: changes do not arrive as they should",
                "make it again, as sql/migrations/0002_triggers.sql does; stop the writers meanwhile",
            )
        ]
    if idle:
        mend = "; ".join(f"ALTER TABLE caspen_sync.outbox ENABLE TRIGGER {name}" for name in idle)
        if "outbox_arrival" in idle:
            mend += "; then check again: `woken` tells of what was written meanwhile"
        return [failed("triggers", f"the trigger {', '.join(idle)} of caspen_sync.outbox does not fire", mend)]
    return [ok("triggers", f"{', '.join(TRIGGERS)} are there and fire")]


async def notify(conn: asyncpg.Connection, settings: Settings) -> list[Finding]:
    """That a committed change wakes a worker at once."""
    if settings.database.pgbouncer:
        return [ok("notify", f"not used: changes are found by polling, every {settings.worker.poll_s:g} s")]
    off = [_place(row["role"], row["database"]) for row in await conn.fetch(query("check_notify"))]
    if off:
        return [
            warning(
                "notify",
                f"caspen_sync.notify is off for {', '.join(off)}: changes from there are found by polling, "
                f"every {settings.worker.poll_s:g} s",
                "fine where commits are very many; else ALTER DATABASE (or ROLE) … RESET caspen_sync.notify",
            )
        ]
    return [ok("notify", "a commit wakes the workers")]


def _place(role: str | None, database: str | None) -> str:
    match role, database:
        case None, None:
            return "the whole server"
        case None, _:
            return f"database {database}"
        case _, None:
            return f"role {role}"
        case _:
            return f"role {role} in database {database}"
