"""Rights: what this login may do, and what the three roles may."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import asyncpg

from worker.check.finding import Finding, failed, ok, skipped, warning
from worker.check.granted import ROLES, WORKER, Right, rights_of
from worker.config import Settings
from worker.sqlfiles import query

GRANTS_SAY_INHERIT = 160_000


async def rights(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """That this login may do what a worker does."""
    tables = await _tables(conn)
    if not tables:
        return [skipped("rights", "needs the schema")]
    server = await conn.fetchrow(query("check_server"))
    login = server["login"]
    missing = await _missing(conn, login, rights_of(WORKER, tables))
    if missing and await conn.fetchval(query("check_inherits"), login, WORKER):
        said = f"{login} has the role {WORKER}, and does not inherit what it may: it lacks {_listed(missing)}"
        return [failed("rights", said, _inherit(login, server["version_number"]))]
    if missing:
        return [
            failed(
                "rights",
                f"{login} lacks {_listed(missing)}",
                f'GRANT {WORKER} TO "{login}"; if it has that role, caspen-sync migrate --roles as the schema\'s owner',
            )
        ]
    return [ok("rights", f"{login} may do all that {WORKER} may")]


def _inherit(login: str, version_number: int) -> str:
    # From PostgreSQL 16 on each grant says so by itself, and the login's attribute counts for later ones only.
    if version_number >= GRANTS_SAY_INHERIT:
        return f'GRANT {WORKER} TO "{login}" WITH INHERIT TRUE'
    return f'ALTER ROLE "{login}" INHERIT'


async def roles(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """That the roles are as sql/roles.sql makes them. A clinic may do without them, so this never fails."""
    tables = await _tables(conn)
    if not tables:
        return [skipped("roles", "needs the schema")]
    there = {row["name"] for row in await conn.fetch(query("check_roles"), list(ROLES))}
    if not there:
        return [
            warning(
                "roles",
                "the three roles are not used: whoever writes changes may do more than that",
                "caspen-sync migrate --roles, then GRANT caspen_sync_writer TO the application's user",
            )
        ]
    faults = [f"there is no {role}" for role in ROLES if role not in there]
    missing = {role: await _missing(conn, role, rights_of(role, tables)) for role in sorted(there)}
    faults += [f"{role} lacks {_listed(lacking)}" for role, lacking in missing.items() if lacking]
    if faults:
        return [warning("roles", "; ".join(faults), "caspen-sync migrate --roles, as the schema's owner")]
    return [ok("roles", f"{', '.join(ROLES)} are as sql/roles.sql makes them")]


async def _tables(conn: asyncpg.Connection) -> list[str]:
    return [row["name"] for row in await conn.fetch(query("check_tables"))]


async def _missing(conn: asyncpg.Connection, role: str, wanted: Collection[Right]) -> list[Right]:
    columns = [list(column) for column in zip(*sorted(wanted, key=str), strict=True)]
    return [Right(*row) for row in await conn.fetch(query("check_rights"), role, *columns)]


def _listed(missing: Iterable[Right]) -> str:
    """By privilege: SELECT on queue, worker; INSERT on attempt."""
    places: dict[str, list[str]] = {}
    for right in missing:
        places.setdefault(right.privilege, []).append(right.on)
    return "; ".join(f"{privilege} on {', '.join(sorted(on))}" for privilege, on in sorted(places.items()))
