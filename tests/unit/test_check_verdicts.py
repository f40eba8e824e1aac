"""What `check` makes of figures: each limit from both sides."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from tests.support.checking import holds
from tests.support.processes import TOKEN
from worker.check import Finding, Verdict, exit_code
from worker.check.api import told
from worker.check.finding import failed, ok, skipped, told_by, toml_key, warning
from worker.check.pauses import pause_finding
from worker.check.server import clock_finding, connections_finding, version_finding
from worker.check.upkeep import dead_rows_finding, snapshots_finding
from worker.config import AccountSettings
from worker.errors import DatabaseUnreachable, ExitCode, SchemaMissing
from worker.outcome import Exchange, NotSent, Outcome, Refused, Rejected, Retry, Throttled, Unknown

FINE, HM, BAD = Verdict.OK, Verdict.WARNING, Verdict.FAILED


# -- the exit code ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "code"),
    [
        ([], 0),
        ([77], 77),
        ([77, 69], 69),
        ([69, 78, 77], 78),
    ],
)
def test_the_exit_code_is_that_of_the_worst(failures: list[int], code: int) -> None:
    """78 before 69 before 77; warnings and what was skipped are nothing."""
    findings = [ok("a", "x"), warning("b", "x", "m"), skipped("c", "x")]
    assert exit_code([*findings, *(failed("d", "x", "m", ExitCode(number)) for number in failures)]) == code


def test_an_error_is_taken_apart() -> None:
    """The mend is what follows the first semicolon; an error without one gets that of the place."""
    finding = told_by("schema", SchemaMissing("database: it is not there; run caspen-sync migrate; then check"), "-")
    assert (finding.said, finding.mend) == ("it is not there", "run caspen-sync migrate; then check")
    assert finding.exit_code == 78
    finding = told_by("database", DatabaseUnreachable("database: no"), "is it right?")
    assert (finding.said, finding.mend, finding.exit_code) == ("no", "is it right?", 69)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("north_1-A", "north_1-A"),
        ("north east", '"north east"'),
        ("north.east", '"north.east"'),
        ("", '""'),
        ("n\u00f6rd", '"n\u00f6rd"'),
        ('a"b\\c\n\x7f\x1b', r'"a\"b\\c\n\u007f\u001b"'),
    ],
)
def test_a_name_as_a_key(name: str, key: str) -> None:
    """What `check` says to write into config.toml can be written there, and means that name."""
    assert toml_key(name) == key
    assert tomllib.loads(f"[accounts.{key}]") == {"accounts": {name: {}}}


# -- pauses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "verdict", "code", "said", "mend"),
    [
        ("refused", BAD, 77, "account north, refused: why; nothing is sent", "systemctl restart caspen-sync"),
        ("down", BAD, 69, "account north, down: why; nothing is sent", "asks again by itself"),
        ("rejected", BAD, 78, "account north, rejected: why; nothing is sent", "is api.base_url right"),
        ("manual", HM, 0, "account north, by hand: why", "caspen-sync resume north"),
        ("throttled", FINE, 0, "account north, throttled: why; it goes on by itself", ""),
    ],
)
def test_a_pause(kind: str, verdict: Verdict, code: int, said: str, mend: str) -> None:
    """Each kind with its own exit code: what a person has to mend fails, what a person did is a warning."""
    found = pause_finding("north", kind, "why")
    holds(found, verdict, said, mend)
    assert found.exit_code == code


# -- the server ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "chooses_partitions", "verdict", "mend"),
    [
        (149_999, False, BAD, "15"),
        (150_000, True, FINE, ""),
        (179_999, True, FINE, ""),
        (180_000, True, BAD, 'ALTER DATABASE "clinic" SET enable_partition_pruning = off'),
        (180_001, False, FINE, ""),
        (180_006, True, BAD, "after 18.6"),
        (180_007, True, FINE, ""),
    ],
)
def test_the_server_s_version(number: int, chooses_partitions: bool, verdict: Verdict, mend: str) -> None:
    """15 or newer, and none that crashes under partitions."""
    row = {"version_number": number, "version": "x", "host": "::1", "port": 1, "database": "clinic", "login": "me"}
    found = version_finding({**row, "chooses_partitions": chooses_partitions})
    holds(found, verdict, "at ::1, port 1, database clinic, as me", mend)


def room(**others: Any) -> dict[str, Any]:
    """One row of check_connections: 97 may connect, 10 do."""
    row = {"server_limit": 97, "database_limit": None, "login_limit": None, "database": "clinic", "login": "svc"}
    return row | {"in_server": 10, "in_database": 10, "of_login": 10} | others


@pytest.mark.parametrize(
    ("row", "alive", "verdict", "said", "mend"),
    [
        (room(), 0, FINE, "max_connections leaves room for 87", ""),
        (room(), 7, FINE, "7 are running", ""),
        (room(), 8, HM, "one more does not fit", "max_connections"),
        (room(), 9, BAD, "", "max_connections"),
        (room(in_server=87), 0, FINE, "room for 10", ""),
        (room(in_server=88), 0, BAD, "room for 9", "max_connections"),
        (room(in_server=120), 0, BAD, "room for 0", "max_connections"),
        (room(login_limit=21), 0, FINE, "the limit of role svc leaves room for 11", ""),
        (room(login_limit=21), 1, HM, "the limit of role svc", 'ALTER ROLE "svc" CONNECTION LIMIT'),
        (room(database_limit=12), 0, BAD, "the limit of database clinic", 'ALTER DATABASE "clinic" CONNECTION LIMIT'),
        (room(database_limit=0, login_limit=100), 0, BAD, "the limit of database clinic", ""),
    ],
)
def test_room_for_connections(row: dict[str, Any], alive: int, verdict: Verdict, said: str, mend: str) -> None:
    """Eight for each process, those that run and one more, within the narrowest of three limits."""
    holds(connections_finding(row, alive), verdict, said, mend)


@pytest.mark.parametrize(
    ("ahead_s", "unsure_s", "verdict", "said"),
    [
        (1.9, 0.0, FINE, "1.9 s ahead of X"),
        (-1.9, 0.0, FINE, "1.9 s behind X"),
        (2.1, 0.0, HM, "2.1 s ahead of X"),
        (-3600.0, 0.0, HM, "3600.0 s behind X"),
        (2.1, 0.2, FINE, ""),
    ],
)
def test_clocks(ahead_s: float, unsure_s: float, verdict: Verdict, said: str) -> None:
    """More than two seconds, and more than the way there may have taken, is worth a word."""
    holds(clock_finding("X", ahead_s, unsure_s), verdict, said)


# -- upkeep ----------------------------------------------------------------------------------------------------------


def snapshot(kind: str = "session", age_s: float | None = None, xids: int = 5, owner: str | None = "app") -> Any:
    return {"kind": kind, "name": "4711", "owner": owner, "xids": xids, "age_s": age_s}


@pytest.mark.parametrize(
    ("rows", "verdict", "said", "mend"),
    [
        ([], FINE, "none is older than an hour", ""),
        ([snapshot(age_s=3599.0)], FINE, "none", ""),
        ([snapshot(age_s=3601.0)], HM, "session 4711 of app is 1.0 hours old", "pg_terminate_backend(4711)"),
        ([snapshot(age_s=7200.0), snapshot(age_s=3700.0)], HM, "2.0 hours old, and 1 more", ""),
        ([snapshot("prepared transaction", 9000.0)], HM, "prepared transaction 4711 of app", "ROLLBACK PREPARED"),
        ([snapshot("replication slot", owner=None)], FINE, "none", ""),
        ([snapshot("replication slot", xids=2_000_000, owner=None)], HM, "4711 is 2000000 transactions old", "slot"),
        ([snapshot()], FINE, "of 1 only the age in transactions is seen, without the role pg_read_all_stats", ""),
        ([snapshot(xids=1_000_001)], HM, "is 1000001 transactions old", "pg_terminate_backend"),
    ],
)
def test_old_snapshots(rows: list[Any], verdict: Verdict, said: str, mend: str) -> None:
    """An hour, or a million transactions where the time is not known; the oldest is named."""
    holds(snapshots_finding(rows), verdict, said, mend)


def table(name: str = "queue", live: int = 100, dead: int = 0, **others: Any) -> dict[str, Any]:
    return {"name": name, "live": live, "dead": dead, "cleaned_s_ago": None, "runs": True, "enabled": True} | others


@pytest.mark.parametrize(
    ("rows", "verdict", "said", "mend"),
    [
        ([], Verdict.SKIPPED, "needs the schema", ""),
        ([table(dead=10_050)], FINE, "queue 10050 of 10150", ""),
        ([table(dead=10_051)], HM, "queue was cleaned never", "VACUUM caspen_sync.queue"),
        ([table(dead=60_000, live=100_000, cleaned_s_ago=7200.0)], FINE, "", ""),
        ([table(dead=60_001, live=100_000, cleaned_s_ago=7200.0)], HM, "queue was cleaned 2.0 hours ago", "VACUUM"),
        ([table(dead=60_001, live=100_000, cleaned_s_ago=599.0)], FINE, "queue 60001 of 160001", ""),
        ([table(dead=60_001, live=100_000, cleaned_s_ago=601.0)], HM, "", "VACUUM"),
        ([table(), table("arrival", enabled=False)], HM, "autovacuum leaves out arrival", "RESET (autovacuum_enabled)"),
        ([table(runs=False)], HM, "autovacuum is off for the whole server", "autovacuum"),
    ],
)
def test_dead_rows(rows: list[Any], verdict: Verdict, said: str, mend: str) -> None:
    """Many, and many for the table, unless somebody has just cleaned up; and nobody who would clean up."""
    holds(dead_rows_finding(rows), verdict, said, mend)


# -- what the API says -----------------------------------------------------------------------------------------------


def answered(outcome: Outcome, limit: int | None = 60) -> list[Finding]:
    exchange = Exchange(outcome=outcome, started_at=0.0, ended_at=0.1, limit=limit)
    return told("north", AccountSettings(), exchange, skew=None)


@pytest.mark.parametrize(
    ("outcome", "limit", "verdict", "code", "said"),
    [
        (Rejected(status=404, reason="404", whole=True), 60, FINE, 0, "account north: the API accepts the token"),
        (Rejected(status=422, reason="422", whole=False), 60, FINE, 0, "accepts"),
        (Retry(status=200, reason="200 with no resource"), 60, FINE, 0, "accepts"),
        (Refused(status=401, reason="401 token missing or invalid"), 60, BAD, 77, "refused the token: 401"),
        (Rejected(status=404, reason="404", whole=True), None, BAD, 78, "no X-RateLimit-Limit"),
        (Rejected(status=301, reason="301", whole=True), None, BAD, 78, "301"),
        (Throttled(status=429), 60, HM, 0, "throttled"),
        (Retry(status=503, reason="503 temporarily unavailable"), None, BAD, 69, "503"),
        (Unknown(reason="no answer within 6 s"), None, BAD, 69, "no answer"),
        (NotSent(reason="Connection refused"), None, BAD, 69, "refused"),
    ],
)
def test_what_the_api_says(outcome: Outcome, limit: int | None, verdict: Verdict, code: int, said: str) -> None:
    """Each outcome; a 404 from somewhere else is no word of the API's."""
    found = answered(outcome, limit)[0]
    holds(found, verdict, said)
    assert found.exit_code == code
    assert TOKEN not in repr(found)


@pytest.mark.parametrize(("granted", "verdict"), [(60, FINE), (59, HM), (61, HM)])
def test_the_limit(granted: int, verdict: Verdict) -> None:
    """What the API grants is what is configured."""
    found = answered(Rejected(status=404, reason="404", whole=True), granted)[1]
    holds(found, verdict, str(granted), "" if verdict is FINE else f"accounts.north.rate_limit = {granted}")
