"""Which rights a role is to have: read out of sql/roles.sql, so that there is one list of them.

That file is ours and plain: GRANT and REVOKE of privileges on the schema, on named tables or on all of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from worker.sqlfiles import roles

WRITER, WORKER, READER = ROLES = ("caspen_sync_writer", "caspen_sync_worker", "caspen_sync_reader")

_COMMENT = re.compile(r"--[^\n]*")
_STATEMENT = re.compile(r"^(GRANT|REVOKE)\s+(.+?)\s+ON\s+(.+?)\s+(?:TO|FROM)\s+([^;]+);", re.MULTILINE | re.DOTALL)
_PRIVILEGE = re.compile(r"([A-Z]+)\s*(?:\(([^)]*)\))?")


class Right(NamedTuple):
    """One privilege on the schema (no table), on a table, or on a column of it."""

    privilege: str
    table: str | None
    column: str | None

    @property
    def on(self) -> str:
        """What it is on, for a person."""
        if self.table is None:
            return "the schema caspen_sync"
        return self.table if self.column is None else f"{self.table} ({self.column})"


def rights_of(role: str, tables: Collection[str]) -> frozenset[Right]:
    """The rights of one of our roles, `tables` being all tables of the schema."""
    held: set[Right] = set()
    for verb, privileges, objects, names in _STATEMENT.findall(_COMMENT.sub("", roles())):
        if role not in _listed(names):
            continue
        for right in _rights(privileges, objects, tables):
            if verb == "GRANT":
                held.add(right)
            else:
                held -= {one for one in held if _takes(right, one)}
    return frozenset(held)


def _rights(privileges: str, objects: str, tables: Collection[str]) -> list[Right]:
    return [
        Right(privilege, table, column)
        for privilege, columns in _PRIVILEGE.findall(privileges)
        for table in _tables(objects, tables)
        for column in (*_listed(columns),) or (None,)
    ]


def _tables(objects: str, tables: Collection[str]) -> Sequence[str | None]:
    if objects.startswith("SCHEMA"):
        return [None]
    if objects.startswith("ALL TABLES"):
        return sorted(tables)
    return [name.removeprefix("caspen_sync.") for name in _listed(objects)]


def _takes(revoked: Right, held: Right) -> bool:
    return revoked.table == held.table and revoked.privilege in ("ALL", held.privilege)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
