"""Where the SQL is: every statement that runs stands in a file of its own, and Python holds none.

A built package carries `sql/` inside itself; in a checkout, editable installs included, it is the folder beside.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_INSIDE = Path(__file__).parent / "sql"
_BESIDE = Path(__file__).parent.parent / "sql"


@cache
def sql_dir() -> Path:
    """The folder that holds migrations/, queries/ and roles.sql."""
    return _INSIDE if _INSIDE.is_dir() else _BESIDE


@cache
def query(name: str) -> str:
    """The text of sql/queries/NAME.sql."""
    return (sql_dir() / "queries" / f"{name}.sql").read_text(encoding="utf-8")


def roles() -> str:
    """The text of sql/roles.sql."""
    return (sql_dir() / "roles.sql").read_text(encoding="utf-8")
