"""`caspen-sync migrate`."""

from __future__ import annotations

import argparse
import asyncio

from worker.cli.settings import settings_from
from worker.config import Settings
from worker.database import connection
from worker.errors import ConfigError, ExitCode
from worker.migrate import apply_roles, migrate_schema


def run(args: argparse.Namespace) -> int:
    """Migrates, and says what was done."""
    settings = settings_from(args)
    if settings.database.pgbouncer:
        raise ConfigError(
            "database.pgbouncer: migrate needs a session of its own and would leave locks and settings behind in the "
            "pool; set it to false and give the server's own address with --dsn"
        )
    return asyncio.run(_run(settings, with_roles=args.roles))


async def _run(settings: Settings, *, with_roles: bool) -> int:
    async with connection(settings.database) as conn:
        applied = await migrate_schema(conn)
        for migration in applied:
            print(f"applied {migration.number:04} {migration.name}")
        if not applied:
            print("the schema is up to date")
        if with_roles:
            await apply_roles(conn)
            print("the roles caspen_sync_writer, caspen_sync_worker and caspen_sync_reader are up to date")
    return ExitCode.OK
