"""The list of rights, read out of sql/roles.sql."""

from __future__ import annotations

import re

from worker.check.granted import _COMMENT, _STATEMENT, READER, WORKER, WRITER, Right, rights_of
from worker.sqlfiles import roles

TABLES = ["outbox", "queue", "appointment_lock", "migration"]


def test_every_statement_is_understood() -> None:
    """A GRANT or REVOKE of another form would be left out of the list without a word."""
    plain = _COMMENT.sub("", roles())
    written = re.findall(r"\b(?:GRANT|REVOKE)\b", plain)
    understood = _STATEMENT.findall(plain)
    assert len(written) == len(understood) > 5
    for _, privileges, objects, names in understood:
        assert re.fullmatch(r"SCHEMA caspen_sync|ALL TABLES IN SCHEMA caspen_sync|(caspen_sync\.\w+,?\s*)+", objects)
        assert re.fullmatch(r"(caspen_sync_\w+,?\s*)+", names)
        assert re.fullmatch(r"(ALL|SELECT|INSERT|UPDATE|DELETE|USAGE|\([\w\s,]+\)|[\s,])+", privileges)


def test_what_is_taken_back() -> None:
    """The worker has four rights on each table, but those that are revoked again."""
    held = rights_of(WORKER, TABLES)
    assert {right.privilege for right in held if right.table == "queue"} == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert {right.privilege for right in held if right.table == "migration"} == {"SELECT"}
    assert not any(right.table == "appointment_lock" for right in held)
    assert Right("USAGE", None, None) in held


def test_columns() -> None:
    """Rights on columns are kept apart, each by its name."""
    assert Right("INSERT", "outbox", "lane") in rights_of(WRITER, TABLES)
    assert Right("SELECT", "outbox", "last_error") in rights_of(READER, TABLES)
    assert not any(right.column == "changes" for right in rights_of(READER, TABLES))
    assert Right("SELECT", "outbox", "id").on == "outbox (id)"
