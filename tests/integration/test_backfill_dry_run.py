"""`caspen-sync backfill FILE --dry-run`: what it says, and that it changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.database import Database
from tests.support.madeup import MadeUp, reject, row
from tests.support.pgbouncer import way_through
from tests.support.rawserver import closed_port
from worker.backfill.rows import Reject, Row
from worker.cli.dryrun import dry_run
from worker.config import Settings
from worker.errors import DatabaseUnreachable, ExitCode, SchemaMissing, UsageError
from worker.store import Store

NAME = "may.csv"
LINES = [
    row(1, "app_1", {"note": None, "room_id": 1}),
    row(2, "app_2", {"note": None}),
    row(3, "app_1", {"room_id": 2}),
    row(4, "app_2", {"note": None}),
]
WRONG = reject(5, ("note", "must be at most 255 characters"), ("room_id", "must be an integer"))


def settings_of(dsn: str, **more: Any) -> Settings:
    through = way_through(dsn)
    return Settings.model_validate({"database": {"dsn": through or dsn, "pgbouncer": bool(through)}} | more)


async def run(
    dsn: str, lines: Sequence[Row | Reject], *, as_of: datetime | None = None, as_json: bool = False, **more: Any
) -> int:
    return await dry_run(MadeUp(lines), settings_of(dsn, **more), name=NAME, as_of=as_of, problems=1, as_json=as_json)


async def loaded(database: Database, lines: Sequence[Row], *, accepted: int | None = None, **ended: datetime) -> None:
    """What the backfill has already; `accepted`: only so many of them."""
    columns = "".join(f", {name}" for name in ended)
    await database.pool.execute(
        f"""
        INSERT INTO caspen_sync.backfill (account, name, started_by, token, accepted_nth, loaded_nth, lines{columns})
        VALUES ('default', $1, 'me', gen_random_uuid(), $2, $2, $2{", now()" * len(ended)})
        """,
        NAME,
        len(lines) if accepted is None else accepted,
    )
    for nth, line in enumerate(lines, 1):
        await database.pool.execute(
            "INSERT INTO caspen_sync.backfill_line VALUES ($1, $2, $3, $4, $5, $6, now(), $7)",
            line.account,
            NAME,
            nth,
            line.line,
            line.appointment_id,
            line.changes,
            line.digest,
        )


async def contents(database: Database) -> Mapping[str, str]:
    """Everything that the schema's tables hold."""
    tables = await database.rows("SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = 'caspen_sync'")
    return {
        name: await database.value(f"SELECT coalesce(jsonb_agg(t), '[]')::text FROM caspen_sync.{name} AS t")
        for (name,) in tables
    }


async def test_at_a_glance(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """First what would be done and when, then what there is to know; nothing is written, and no slot is taken."""
    await Store(database.workers, worker="w").register(settings_of(database.dsn).accounts)
    before = await contents(database)
    assert await run(database.dsn, LINES) == ExitCode.OK
    out, err = capsys.readouterr()
    first, *rest = out.splitlines()
    assert first.startswith("may.csv: 4 lines would be loaded and take 2 requests: done in less than a second, ")
    assert first.endswith(", at 53.1 requests a minute")
    assert rest == [
        "",
        "4 valid lines, 2 appointments",
        "1 line repeats an earlier one: 4 says what 2 says",
        "of 60 requests a minute, 6 are reserved for live changes",
        "no request was made yet: what live changes will use is not known",
        "an answer is assumed to take 0.5s",
        "",
        "FIELD    SET  CLEARED",
        "note     0    3",
        "room_id  2    0",
    ]
    assert err == ""
    assert await contents(database) == before


async def test_lines_that_are_no_valid_changes(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """They are named by line and field as far as asked for, and the rest is counted; it says what could be done, and
    ends with 65."""
    assert await run(database.dsn, [*LINES, WRONG, reject(6, ("note", "must be a string"))]) == ExitCode.PARKED
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "may.csv: 2 of 6 lines are no valid changes, so nothing would be loaded; with --skip-invalid 4 lines would be "
        "loaded and take 2 requests: done in "
    )
    assert rest[:4] == [
        "",
        "line 5: note: must be at most 255 characters",
        "and 2 more problems in 1 more line",
        "by field: note 2, room_id 1",
    ]


async def test_what_is_loaded_already(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that this name has are not counted again, each as often as it has them; what was never accepted does not
    count."""
    await loaded(database, [LINES[0], LINES[1], LINES[2]], accepted=2)
    assert await run(database.dsn, LINES) == ExitCode.OK
    assert capsys.readouterr().out.startswith(
        "may.csv: of 4 lines 2 are loaded already, the other 2 would be added and take 2 requests: done in "
    )
    await database.pool.execute("DELETE FROM caspen_sync.backfill_line")
    await database.pool.execute("DELETE FROM caspen_sync.backfill")
    await loaded(database, LINES)
    assert await run(database.dsn, LINES) == ExitCode.OK
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "may.csv: of 4 lines all of them are loaded already, nothing would be added"


@pytest.mark.parametrize("ended", ["cancelled_at", "forgotten_at"])
async def test_a_name_that_is_used_up(database: Database, ended: str) -> None:
    """A backfill that was cancelled, or whose lines are not known any more, takes no more lines, and it says so before
    it reads."""
    await loaded(database, [LINES[0]], **{ended: datetime.now(UTC)})
    with pytest.raises(UsageError, match=r"backfill may\.csv: .*another --name"):
        await run(database.dsn, LINES)


async def test_what_newer_changes_have_set(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a time, lines that newer pending or synced changes would take fields from are counted, and those that would
    be left with nothing take no request."""
    before = datetime.now(UTC) - timedelta(hours=1)
    newer = await database.write("app_1", {"room_id": 9})
    assert await run(database.dsn, LINES, as_of=before) == ExitCode.OK
    out = capsys.readouterr().out
    assert "have set some of it: 1 line would lose fields, 1 line would not be sent at all" in out
    assert "take 2 requests" in out

    await database.pool.execute("UPDATE caspen_sync.outbox SET state = 'synced', finished_at = now()")
    await database.pool.execute(
        """
        INSERT INTO caspen_sync.appointment (account, appointment_id, resource, synced_at, last_change_id, set_by)
        VALUES ('default', 'app_1', '{}', now(), $1, jsonb_build_object('room_id', $1::bigint))
        """,
        newer,
    )
    assert await run(database.dsn, LINES[2:3], as_of=before) == ExitCode.OK
    assert capsys.readouterr().out.startswith(
        "may.csv: 1 line would be loaded and nothing sent: newer changes have set all of it"
    )
    assert await run(database.dsn, LINES, as_of=datetime.now(UTC)) == ExitCode.OK
    assert "no change newer than" in capsys.readouterr().out


async def test_a_line_that_is_loaded_already_loses_nothing(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left out is told of the lines that would be added."""
    await database.write("app_1", {"room_id": 9})
    await loaded(database, [LINES[2]])
    await run(database.dsn, LINES, as_of=datetime.now(UTC) - timedelta(hours=1), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["known"], found["left_out"], found["outdated"]) == (1, 1, 0)


async def test_for_programs(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """--json is one object with all of it; what an account has to wait for stands with it."""
    await database.write("app_9", {"note": None}, lane="backfill")
    lines = [*LINES, WRONG, row(6, "app_1", {"note": None}, account="north")]
    accounts = {"default": {}, "north": {"rate_limit": 600}}
    assert await run(database.dsn, lines, as_json=True, accounts=accounts) == ExitCode.PARKED
    found = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in ("lines", "valid", "invalid", "problems", "appointments", "requests")} == {
        "lines": 6, "valid": 5, "invalid": 1, "problems": 2, "appointments": 3, "requests": 3,
    }  # fmt: skip
    assert found["first_problems"] == [{"line": 5, "field": "note", "reason": "must be at most 255 characters"}]
    assert found["first_duplicates"] == [{"line": 4, "first": 2}]
    assert found["fields"]["note"] == {"set": 0, "cleared": 4}
    assert [(one["account"], one["requests"], one["ahead"], one["budget_limit"]) for one in found["accounts"]] == [
        ("default", 2, 1, 60),
        ("north", 1, 0, 600),
    ]
    assert datetime.fromisoformat(found["done_at"]) > datetime.now(UTC) - timedelta(minutes=1)
    assert found["database"] is None


async def test_several_accounts(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a row of its own, and what there is to know says of which."""
    lines = [row(1, "app_1", {"note": None}), row(2, "app_1", {"note": None}, account="north")]
    assert await run(database.dsn, lines, accounts={"default": {}, "north": {"rate_limit": 600}}) == ExitCode.OK
    out = capsys.readouterr().out
    assert "\naccount north: of 600 requests a minute, 60 are reserved for live changes\n" in out
    assert out.splitlines()[-3:] == [
        "ACCOUNT  REQUESTS  BEFORE THEM  A MINUTE  TAKES",
        "default  1         0            53.1      0.5s",
        "north    1         0            531       0.5s",
    ]


async def test_without_a_database(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines are validated and counted all the same; then the database's error is raised, unless lines are invalid."""
    dsn = f"postgresql://127.0.0.1:{closed_port()}/clinic"
    with pytest.raises(DatabaseUnreachable, match="cannot be reached"):
        await run(dsn, LINES, as_of=datetime.now(UTC))
    out = capsys.readouterr().out
    assert out.startswith("may.csv: 4 lines would be loaded and take 2 requests: done in less than a second, ")
    assert "what is loaded already is not known" in out

    assert await run(dsn, [*LINES, WRONG]) == ExitCode.PARKED
    out, err = capsys.readouterr()
    assert "line 5: note" in out
    assert "cannot be reached" in err

    assert await run(dsn, [WRONG], as_json=True) == ExitCode.PARKED
    found = json.loads(capsys.readouterr().out)
    assert "cannot be reached" in found["database"]
    assert found["known"] is None


async def test_a_database_that_goes_away_in_the_middle(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """What it could not be asked any more is said not to be known; the pass goes to its end."""

    class Gone(MadeUp):
        async def batches(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
            async for batch in super().batches():
                await database.pool.execute("ALTER TABLE IF EXISTS caspen_sync.outbox RENAME TO outbox_away")
                yield batch

    with pytest.raises(SchemaMissing):
        await dry_run(
            Gone(LINES), settings_of(database.dsn), name=NAME, as_of=datetime.now(UTC), problems=1, as_json=False
        )
    assert capsys.readouterr().out.startswith("may.csv: 4 lines would be loaded and take 2 requests")
    await database.pool.execute("ALTER TABLE caspen_sync.outbox_away RENAME TO outbox")


async def test_nothing_to_load(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A source without lines, and one without valid ones, are said to be that."""
    assert await run(database.dsn, []) == ExitCode.OK
    assert capsys.readouterr().out == "may.csv: there are no lines\n"
    assert await run(database.dsn, [WRONG]) == ExitCode.PARKED
    assert capsys.readouterr().out.splitlines()[0] == (
        "may.csv: 1 of 1 line is no valid change; nothing would be loaded"
    )
