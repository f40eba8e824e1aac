"""The alerting rules, evaluated by promtool minute by minute: each fires when it should, and in the normal case beside
it, none does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.alerting import (
    CRON,
    SERVICE,
    Scenario,
    World,
    account,
    away,
    cron,
    key,
    lag,
    on,
    only,
    service,
    steps,
    synced,
    write,
)
from tests.support.promql import plain, promtool
from worker.grafana import alerts, dashboard

OTHER = {"job": "caspen-sync", "instance": "b:9464"}
ODD = 'no"body\n\\{{ $1 }}.*'
# Longer than any rule looks back, or waits: what has not fired by then does not.
LONG = 7 * 60
ALERTS = re.findall(r"- alert: (\w+)", alerts())


def told(name: str, values: str, *, of: str = "default", **labels: str) -> World:
    """What the service says of an account."""
    return on(SERVICE, {key(f"caspen_sync_{name}", account=of, **labels): values})


def paused(kind: str, values: str, *, of: str = "default") -> World:
    return told("account_paused", values, of=of, kind=kind)


def by_process(name: str, values: str, **labels: str) -> World:
    """What the service says of itself, or of all processes without a word of accounts."""
    return on(SERVICE, {key(f"caspen_sync_{name}", **labels): values})


def last_run(name: str, values: str) -> World:
    return on(CRON, {key(f"caspen_sync_last_run_{name}"): values})


def of_live(told_of: World) -> World:
    return on(SERVICE | {"account": "default"}, told_of)


def fires(*names: str, at: int, world: World, accounts: tuple[str, ...] = (), why: str = "") -> Scenario:
    """By that minute these have fired, and no others."""
    every = frozenset(f"CaspenSync{name}" for name in names)
    title = f"{names[0]} fires{f': {why}' if why else ''}"
    return Scenario(title, at, world, every, accounts=frozenset(accounts))


def calm(beside: str, why: str, *, at: int, world: World, but: tuple[str, ...] = ()) -> Scenario:
    """What comes near to an alert, and it does not fire by that minute; nor does any other, `but` for these."""
    every = frozenset(f"CaspenSync{name}" for name in but)
    return Scenario(f"{beside} is calm: {why}", at, world, every, beside=f"CaspenSync{beside}")


AGEING = told("oldest_pending_age_seconds", "+60")
NOTHING_LEAVES = told("changes_total", "0", state="synced") | of_live(synced("live"))
STUCK = service() | AGEING | NOTHING_LEAVES
# The oldest is the backfill's, and a clinic that is busy has a live change pending at each look.
BACKFILL = service() | AGEING | told("backlog_changes", "5000", lane="backfill")
# Whoever looks at the database can tell it all: the gauges that are left out while it is away.
READ = ("workers", "unserved_accounts", "backlog_changes", "oldest_pending_age_seconds", "parked_changes")
READ += ("appointments_backing_off", "account_paused", "budget_limit", "budget_free", "budget_held_back")
LEFT_BY_A_RUN = on(
    CRON,
    {
        key("caspen_sync_oldest_pending_age_seconds", account="default"): "+60",
        key("caspen_sync_backlog_changes", account="default", lane="live"): "0",
        key("caspen_sync_backlog_changes", account="default", lane="backfill"): "5000",
        key("caspen_sync_changes_total", account="default", state="synced"): "0",
        key("caspen_sync_last_run_exit_code"): "75",
    },
)

SCENARIOS = [
    fires("Absent", at=10, world={}),
    calm("Absent", "only a service", at=60, world=service()),
    calm("Absent", "only cron jobs", at=60, world=cron()),
    calm("Absent", "a service and cron jobs", at=60, world=service() | cron()),
    calm("Absent", "a restart takes four minutes", at=120, world=away(service(), after=60, minutes=4)),
    fires("Absent", at=70, world=away(service(), after=60), why="the only one goes away"),
    fires("NotScraped", at=70, world=service() | away(service(OTHER), after=60)),
    calm("NotScraped", "a restart", at=120, world=service() | away(service(OTHER), after=60, minutes=4)),
    calm("NotScraped", "others are down", at=60, world=service() | {key("up", job="db", instance="c:1"): "0"}),
    fires(
        "DatabaseAway",
        at=80,
        world=service()
        | by_process("database_up", steps(1, 60, 0))
        | away(only(service(), *(f"caspen_sync_{name}" for name in READ)), after=60),
    ),
    calm("DatabaseAway", "a failover", at=80, world=service() | by_process("database_up", steps(1, 60, 0, 4, 1))),
    calm(
        "DatabaseAway",
        "a cron job has no time left to count",
        at=80,
        world=cron() | on(CRON, {key("caspen_sync_database_up"): "0", key("caspen_sync_last_run_exit_code"): "75"}),
    ),
    fires("DatabaseFaults", at=60, world=service() | by_process("database_faults_total", "+2")),
    calm("DatabaseFaults", "a restart", at=90, world=service() | by_process("database_faults_total", steps(0, 20, 50))),
    calm(
        "DatabaseFaults",
        "a deadlock now and then",
        at=60,
        world=service() | by_process("database_faults_total", "0+0.2x{end}"),
    ),
    fires("AccountRefused", at=10, world=service() | paused("refused", "1")),
    fires(
        "AccountRefused",
        at=10,
        world=service() | account(SERVICE, ODD) | paused("refused", "1", of=ODD),
        accounts=(ODD,),
        why="whatever the account is called",
    ),
    fires(
        "AccountRefused",
        at=10,
        world=cron() | on(CRON, {key("caspen_sync_account_paused", account="default", kind="refused"): "1"}),
        accounts=("default",),
        why="of a cron job",
    ),
    calm("AccountRefused", "a token is replaced", at=30, world=service() | paused("refused", steps(0, 9, 1, 2, 0))),
    fires("AccountRejected", at=20, world=service() | paused("rejected", "1")),
    calm("AccountRejected", "for a moment", at=60, world=service() | paused("rejected", steps(0, 9, 1, 9, 0))),
    fires("ApiDown", at=100, world=service() | AGEING | NOTHING_LEAVES | paused("down", "1")),
    calm("ApiDown", "for ten minutes", at=60, world=service() | paused("down", steps(0, 9, 1, 12, 0))),
    fires(
        "ApiDownLong",
        "ApiDown",
        at=150,
        world=away(service() | AGEING | NOTHING_LEAVES | paused("down", "1"), after=60, minutes=3),
        why="and a restart does not set it back",
    ),
    calm(
        "ApiDownLong",
        "for an hour and a half",
        at=240,
        world=service() | paused("down", steps(1, 90, 0)),
        but=("ApiDown",),
    ),
    fires("PausedByHand", at=270, world=STUCK | paused("manual", "1")),
    calm(
        "PausedByHand",
        "for a repair, and what waited goes out",
        at=300,
        world=STUCK
        | paused("manual", steps(1, 200, 0))
        | told("oldest_pending_age_seconds", "0+60x199 12000+60x5 1+0x{end}")
        | told("changes_total", "0+0x199 0+60x{end}", state="synced"),
    ),
    fires("Throttled", at=100, world=service() | paused("throttled", "1")),
    calm(
        "Throttled",
        "for two minutes of each ten",
        at=300,
        world=service() | paused("throttled", " ".join(["0+0x7 1+0x1"] * 31)),
    ),
    calm("Throttled", "as a new Prometheus starts", at=90, world=service() | paused("throttled", steps(1, 12, 0))),
    fires("BudgetHeldBack", at=90, world=service() | told("budget_held_back", "20")),
    calm("BudgetHeldBack", "for half an hour", at=120, world=service() | told("budget_held_back", steps(20, 40, 0))),
    calm("BudgetHeldBack", "a little, always", at=90, world=service() | told("budget_held_back", "5")),
    fires("ParkedChanges", at=20, world=service() | told("parked_changes", "3")),
    calm("ParkedChanges", "and back again", at=60, world=service() | told("parked_changes", steps(0, 9, 9, 10, 0))),
    fires("ChangesLate", at=60, world=service() | AGEING),
    fires("ChangesLate", at=60, world=service() | service(OTHER) | AGEING, why="as one of two processes says"),
    calm("ChangesLate", "a backfill without end, beside a busy clinic", at=LONG, world=BACKFILL),
    calm(
        "ChangesLate",
        "a bulk that takes half an hour",
        at=90,
        world=service() | told("oldest_pending_age_seconds", "0+0x9 0+60x35 1+0x{end}"),
    ),
    fires("ChangesVeryLate", "ChangesLate", at=150, world=service() | AGEING),
    calm(
        "ChangesVeryLate",
        "a change that fails again and again until it parks",
        at=200,
        world=service() | told("oldest_pending_age_seconds", "0+60x75 1+0x{end}"),
        but=("ChangesLate",),
    ),
    calm("ChangesVeryLate", "a backfill of hours", at=150, world=BACKFILL),
    calm(
        "ChangesVeryLate",
        "a change that was parked yesterday is sent again",
        at=60,
        world=service() | told("oldest_pending_age_seconds", steps(1, 20, 90000, 6, 1)),
    ),
    fires(
        "LiveLateBesideBackfill",
        at=60,
        world=BACKFILL | of_live(synced("live", slow="+10")),
        why="they come through, late",
    ),
    fires(
        "LiveLateBesideBackfill",
        at=90,
        world=BACKFILL | of_live(synced("live")) | of_live(synced("backfill", slow="+10")),
        why="none comes through",
    ),
    calm("LiveLateBesideBackfill", "a backfill of hours", at=120, world=BACKFILL),
    calm(
        "LiveLateBesideBackfill",
        "one late change",
        at=180,
        world=BACKFILL
        | told("backlog_changes", "0", lane="live")
        | of_live(synced("live", slow=steps(0, 60, 1)) | synced("backfill", slow="+10")),
    ),
    calm(
        "LiveLateBesideBackfill",
        "there is none, and an outage is over",
        at=60,
        world=service() | of_live(synced("live", slow="+10")),
    ),
    calm(
        "LiveLateBesideBackfill",
        "the API is down",
        at=90,
        world=BACKFILL | NOTHING_LEAVES | paused("down", "1"),
        but=("ApiDown",),
    ),
    fires("Stuck", at=30, world=STUCK),
    calm("Stuck", "all that waits is backing off", at=35, world=STUCK | told("appointments_backing_off", "1")),
    calm("Stuck", "there is no budget", at=35, world=STUCK | told("budget_free", "6")),
    calm("Stuck", "the account is throttled", at=35, world=STUCK | paused("throttled", "1"), but=("Throttled",)),
    calm("Stuck", "an hourly cron job left a backfill", at=60, world=cron() | LEFT_BY_A_RUN),
    calm("Stuck", "others leave, and the oldest will", at=35, world=service() | AGEING),
    calm("Stuck", "what waits has only just come", at=60, world=service() | NOTHING_LEAVES),
    calm(
        "Stuck",
        "an account was resumed just now",
        at=80,
        world=STUCK
        | paused("manual", steps(1, 60, 0))
        | told("oldest_pending_age_seconds", "0+60x64 1+0x{end}")
        | told("changes_total", "0+0x64 0+60x{end}", state="synced"),
    ),
    fires("UnservedAccounts", at=30, world=service() | by_process("unserved_accounts", "1")),
    fires(
        "UnservedAccounts",
        at=30,
        world=STUCK | by_process("unserved_accounts", "1") | told("unserved_changes", "7"),
        why="and is not stuck as well",
    ),
    calm("UnservedAccounts", "a deployment", at=60, world=service() | by_process("unserved_accounts", steps(1, 12, 0))),
    fires("LeasesLost", at=60, world=service() | told("leases_lost_total", "+1")),
    calm("LeasesLost", "a host froze once", at=120, world=service() | told("leases_lost_total", steps(0, 20, 8))),
    fires("Mismatches", at=30, world=service() | told("mismatches_total", steps(0, 20, 1))),
    calm(
        "Mismatches",
        "none, and a restart",
        at=120,
        world=away(service(), after=60, minutes=3),
    ),
    fires("LoopLag", at=40, world=service() | on(SERVICE, lag(slow=True))),
    calm(
        "LoopLag",
        "for five minutes",
        at=60,
        world=service() | by_process("loop_lag_seconds_bucket", "0+120x19 2280+0x4 2400+120x{end}", le="0.01"),
    ),
    calm("LoopLag", "a cron job as it starts", at=60, world=cron() | on(CRON, lag(slow=True))),
    fires("RunFailed", at=30, world=cron() | last_run("exit_code", "69")),
    calm("RunFailed", "five runs", at=60, world=cron() | last_run("exit_code", steps(0, 9, 69, 5, 0))),
    calm("RunFailed", "work is left, run after run", at=60, world=cron() | last_run("exit_code", "75")),
    calm("RunFailed", "what parks has an alert of its own", at=60, world=cron() | last_run("exit_code", "65")),
    calm("RunFailed", "and so has a token", at=60, world=cron() | last_run("exit_code", "77")),
    fires("RunMissing", at=60, world=cron() | last_run("timestamp_seconds", "0")),
    calm(
        "RunMissing",
        "a run that took half an hour",
        at=90,
        world=cron() | last_run("timestamp_seconds", "0+60x29 1740+0x32 3780+60x{end}"),
    ),
]


def test_there_is_one_of_each() -> None:
    """Of every alert there is a world in which it fires, and one that comes near to it in which it does not."""
    assert {name for one in SCENARIOS if not one.beside for name in one.fires} == set(ALERTS)
    assert {one.beside for one in SCENARIOS if one.beside and one.beside not in one.fires} == set(ALERTS)
    assert len({one.name for one in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.long
@pytest.mark.parametrize("name", ALERTS)
def test_it_fires_when_it_should(name: str, tmp_path: Path) -> None:
    """In each of its worlds exactly the expected alerts have fired by then; where all is as it should be, none has."""
    short = name.removeprefix("CaspenSync")
    its = [one for one in SCENARIOS if one.name.startswith((f"{short} fires", f"{short} is calm"))]
    assert len(its) > 1
    promtool("test", "rules", write(its, tmp_path))


@pytest.mark.parametrize(
    ("value", "world"),
    [
        (0, service() | told("backlog_changes", "0", lane="live")),
        (0, BACKFILL | told("backlog_changes", "0", lane="live")),
        (0, cron() | on(CRON, {key("caspen_sync_backlog_changes", account="default", lane="live"): "0"})),
        (1, service()),
        (1, service() | paused("throttled", "1")),
        (2, service() | told("parked_changes", "1")),
        (2, service() | AGEING),
        (2, service() | account(SERVICE, ODD) | paused("manual", "1", of=ODD)),
        (2, service() | by_process("unserved_accounts", "1")),
        (3, by_process("database_up", "0")),
    ],
)
def test_the_first_panel_tells_the_truth(value: int, world: World, tmp_path: Path) -> None:
    """Whether today's changes have reached Caspen: 0 all, 1 on their way, 2 a person is needed, 3 no database."""
    first = json.loads(dashboard())["panels"][0]["targets"][0]["expr"]
    file = write([Scenario("first", 50, world)], tmp_path)
    asked = json.loads(file.read_text(encoding="utf-8"))
    expected = [{"labels": "{}", "value": value}]
    asked["tests"][0]["promql_expr_test"] = [{"expr": plain(first), "eval_time": "50m", "exp_samples": expected}]
    file.write_text(json.dumps(asked), encoding="utf-8")
    promtool("test", "rules", file)
