"""Upkeep: what makes claims slower by and by. Rows that changed leave dead ones behind; those pile up while anybody
could still see them, or while nobody cleans up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from worker.check.finding import Finding, ok, skipped, warning
from worker.config import Settings
from worker.sqlfiles import query

OLD_S = 3600.0
# Where the age in seconds is not known: some hours of a busy server.
OLD_XIDS = 1_000_000
# A claim passes by so many dead rows without anybody noticing.
FEW_DEAD = 10_000
# Who has just cleaned up left what is still seen; the counts follow late.
JUST_CLEANED_S = 600.0


async def snapshots(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """That nothing old keeps dead rows from being cleaned away."""
    return [snapshots_finding(await conn.fetch(query("check_snapshots")))]


def snapshots_finding(rows: Sequence[Mapping[str, Any]]) -> Finding:
    """What is to be said of the rows of check_snapshots."""
    old = [row for row in rows if _is_old(row)]
    unseen = sum(row["kind"] == "session" and row["age_s"] is None for row in rows)
    aside = f"; of {unseen} only the age in transactions is seen, without the role pg_read_all_stats" if unseen else ""
    if old:
        oldest = max(old, key=lambda row: (row["age_s"] or 0.0, row["xids"] or 0))
        more = f", and {len(old) - 1} more" if len(old) > 1 else ""
        return warning(
            "snapshots",
            f"{_described(oldest)}{more}: dead rows cannot be cleaned away, and claims get slower{aside}",
            _mend(oldest),
        )
    return ok("snapshots", f"none is older than an hour{aside}")


def _is_old(row: Mapping[str, Any]) -> bool:
    if row["age_s"] is not None:
        return bool(row["age_s"] > OLD_S)
    return (row["xids"] or 0) > OLD_XIDS


def _described(row: Mapping[str, Any]) -> str:
    whose = f" of {row['owner']}" if row["owner"] else ""
    age = f"{row['xids']} transactions" if row["age_s"] is None else f"{row['age_s'] / 3600:.1f} hours"
    return f"{row['kind']} {row['name']}{whose} is {age} old"


def _mend(row: Mapping[str, Any]) -> str:
    match row["kind"]:
        case "prepared transaction":
            return "COMMIT PREPARED or ROLLBACK PREPARED it"
        case "replication slot":
            return "let its reader catch up, or pg_drop_replication_slot it if nobody reads it any more"
        case _:
            return (
                f"SELECT pg_terminate_backend({row['name']}) if it hangs; idle_in_transaction_session_timeout would "
                "end it by itself"
            )


async def dead_rows(conn: asyncpg.Connection, _settings: Settings) -> list[Finding]:
    """That the tables that change with every claim are cleaned."""
    return [dead_rows_finding(await conn.fetch(query("check_dead_rows")))]


def dead_rows_finding(rows: Sequence[Mapping[str, Any]]) -> Finding:
    """What is to be said of the rows of check_dead_rows."""
    if not rows:
        return skipped("dead_rows", "needs the schema")
    if not rows[0]["runs"]:
        return warning("dead_rows", "autovacuum is off for the whole server", "set autovacuum and track_counts to on")
    if left_out := [row["name"] for row in rows if not row["enabled"]]:
        mend = "; ".join(f"ALTER TABLE caspen_sync.{name} RESET (autovacuum_enabled)" for name in left_out)
        return warning("dead_rows", f"autovacuum leaves out {', '.join(left_out)}", mend)
    counts = ", ".join(f"{row['name']} {row['dead']} of {row['dead'] + row['live']}" for row in rows)
    if many := [row for row in rows if row["dead"] > FEW_DEAD + row["live"] / 2 and not _just_cleaned(row)]:
        cleaned = many[0]["cleaned_s_ago"]
        ago = "never" if cleaned is None else f"{cleaned / 3600:.1f} hours ago"
        return warning(
            "dead_rows",
            f"{counts}; {many[0]['name']} was cleaned {ago}",
            f"VACUUM caspen_sync.{many[0]['name']}; if that does not help, see snapshots",
        )
    return ok("dead_rows", counts)


def _just_cleaned(row: Mapping[str, Any]) -> bool:
    return row["cleaned_s_ago"] is not None and bool(row["cleaned_s_ago"] < JUST_CLEANED_S)
