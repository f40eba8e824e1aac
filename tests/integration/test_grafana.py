"""`caspen-sync grafana`: a dashboard and rules that name only what there is, and treat it as what it is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.test_metrics import README, documented
from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.outages import clinic
from tests.support.processes import command
from tests.support.promql import Known, complaints, labels_of, named, plain, promtool
from tests.support.web import web
from worker import grafana
from worker.cli.arguments import parser
from worker.sandbox import NO_SUCH_ROOM

CHECKOUT = Path(__file__).parents[2]
ALERTS = CHECKOUT / "worker" / "grafana" / "alerts.yml"
DASHBOARD = json.loads(grafana.dashboard())
RULES: list[dict[str, Any]] = yaml.safe_load(grafana.alerts())["groups"][0]["rules"]
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Those that Prometheus's client adds for every process, as far as the dashboard shows them.
PROCESS = {
    "process_cpu_seconds_total": "counter",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "process_open_fds": "gauge",
    "process_max_fds": "gauge",
}


def panel_exprs() -> list[str]:
    """Of every panel, as Prometheus is asked."""
    return [plain(target["expr"]) for panel in PANELS for target in panel["targets"]]


def every_expr() -> list[str]:
    return [*panel_exprs(), *(rule["expr"] for rule in RULES)]


def shared() -> set[str]:
    """The gauges that the README says are of all processes together, and those of the last run: one a file."""
    table = README.partition("| **all processes together** |")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \| gauge", table, re.MULTILINE)) | documented(textfile=True).keys()


def known(scrape: str) -> Known:
    """What there is: in a scrape, and, of cron jobs, in the README's table, whose metrics have no labels."""
    of_a_run = dict.fromkeys(documented(textfile=True), frozenset[str]())
    types = documented() | documented(textfile=True) | PROCESS
    return Known(labels=labels_of(scrape) | of_a_run, types=types, shared=shared())


# A world that is small enough to write down, for the tests of the check itself.
SMALL = Known(
    labels={
        "caspen_sync_requests_total": frozenset({"account", "outcome"}),
        "caspen_sync_lag_bucket": frozenset({"le"}),
        "caspen_sync_parked_changes": frozenset({"account"}),
        "caspen_sync_requests_in_flight": frozenset({"account"}),
    },
    types={
        "caspen_sync_requests_total": "counter",
        "caspen_sync_lag": "histogram",
        "caspen_sync_parked_changes": "gauge",
        "caspen_sync_requests_in_flight": "gauge",
    },
    shared={"caspen_sync_parked_changes"},
)


@pytest.mark.long
async def test_everything_that_they_name_exists(database: Database) -> None:
    """Each metric of dashboard and rules is in a live scrape, or in the README's table of cron jobs, and has the labels
    that are asked for; rates are of counters, quantiles of buckets, and what all processes share is never summed."""
    async with clinic(database) as one, web(one.env) as service:
        await one.write(3)
        await database.write("app_bad", {"room_id": NO_SUCH_ROOM})
        await database.write("app_1", {"note": NOTE}, account="stranger")
        await service.turns("/metrics", 200, 'caspen_sync_parked_changes{account="default"} 1.0', limit_s=20)
        await service.turns("/metrics", 200, 'caspen_sync_unserved_changes{account="stranger"} 1.0', limit_s=20)
        there_is = known((await service.scrape()).text)
        await one.stopped(service.service)
    assert len(there_is.shared) == 19
    wrong = {expr: found for expr in every_expr() if (found := list(complaints(expr, there_is)))}
    assert wrong == {}
    for panel in PANELS:
        for target in panel["targets"]:
            asked = named(target["expr"])
            has = frozenset({"job", "instance"}).union(*(there_is.labels[name] for name in asked))
            assert set(re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))) <= has, panel["title"]
    for rule in RULES:
        asked = named(rule["expr"]) - {"up"}
        has = frozenset({"job", "instance"}).union(*(there_is.labels[name] for name in asked))
        assert set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) <= has, rule["alert"]


@pytest.mark.parametrize(
    ("expr", "complaint"),
    [
        ("caspen_sync_nothing", "caspen_sync_nothing does not exist"),
        ('rate(caspen_sync_requests_total{lane="live"}[5m])', "has no label lane"),
        ("sum by (lane) (rate(caspen_sync_requests_total[5m]))", "nothing in sum has all of lane"),
        ("max by (account) (caspen_sync_parked_changes) and on (color) up", "on a label that nothing has: color"),
        ("sum by (account) (caspen_sync_requests_total)", "only its rate or increase"),
        ("max by (account) (rate(caspen_sync_parked_changes[5m]))", "is a gauge, and has no rate"),
        ("sum by (account) (caspen_sync_parked_changes)", "not to be summed"),
        ("max(sum by (account) (caspen_sync_parked_changes))", "not to be summed"),
        ("sum(rate(caspen_sync_lag_bucket[5m]))", "over a sum by le"),
        ("histogram_quantile(0.5, sum(rate(caspen_sync_lag_bucket[5m])))", "over a sum by le"),
        ("max by (account) (caspen_sync_requests_in_flight)", "is to be summed"),
    ],
)
def test_what_is_wrong_is_found(expr: str, complaint: str) -> None:
    """The check over every expression finds each of the mistakes that it is there for, and nothing in sound ones."""
    assert any(complaint in found for found in complaints(expr, SMALL))
    for sound in (
        "sum(max by (account) (caspen_sync_parked_changes)) > 0 and on (job) up",
        "histogram_quantile(0.9, sum by (le, job) (rate(caspen_sync_lag_bucket[5m])))",
        'sum by (outcome) (increase(caspen_sync_requests_total{account=~"a}b|c(d"}[5m]))',
        "sum by (account) (caspen_sync_requests_in_flight)",
    ):
        assert list(complaints(sound, SMALL)) == []


def test_promtool_likes_the_rules() -> None:
    """`promtool check rules` finds every rule, and nothing to say of any."""
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", ALERTS)
    assert len(RULES) > 20


def test_every_panel_asks_what_prometheus_understands(tmp_path: Path) -> None:
    """With its variables replaced, each expression is one that promtool parses."""
    exprs = panel_exprs()
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    file = tmp_path / "panels.json"  # which is YAML, too
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    assert f"SUCCESS: {len(exprs)} rules found" in promtool("check", "rules", file)


def test_every_family_is_looked_at() -> None:
    """Each metric that the README tells of is in the dashboard: who has it need not look elsewhere."""
    asked = {name for expr in panel_exprs() for name in named(expr)}
    families = {re.sub("_(bucket|count|sum)$", "", name) for name in asked}
    assert families == (documented() | documented(textfile=True)).keys() | PROCESS.keys()


def test_the_dashboard_can_be_imported() -> None:
    """It is one for Grafana 10 that asks for nothing: fixed uid and title, no inputs, and the data source is a
    variable, which every panel, query and variable uses."""
    assert (DASHBOARD["uid"], DASHBOARD["title"], DASHBOARD["schemaVersion"]) == ("caspen-sync", "caspen-sync", 39)
    assert DASHBOARD["id"] is None
    assert not {"__inputs", "__requires"} & DASHBOARD.keys()
    source, *variables = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    asked = [*PANELS, *variables, *(target for panel in PANELS for target in panel["targets"])]
    assert all(one["datasource"] == DATASOURCE for one in asked)
    assert list(_keys(DASHBOARD, "uid")).count("${datasource}") == len(asked)


def test_no_account_is_left_out() -> None:
    """By default everything is shown. `All` is any name at all, and not a list of those that were there when the page
    was loaded; accounts that no worker has are in no list, and are shown whatever is chosen."""
    job, account = DASHBOARD["templating"]["list"][1:]
    assert (job["name"], account["name"]) == ("job", "account")
    # To Prometheus before version 3 a dot is anything but a line's end, which a name may hold.
    assert (job["allValue"], account["allValue"]) == (".*", "(?s:.*)")
    assert account["query"]["query"] == 'label_values(caspen_sync_backlog_changes{job=~"$job"}, account)'
    for variable in (job, account):
        assert (variable["multi"], variable["includeAll"]) == (True, True)
        assert (variable["regex"], variable["current"]["value"]) == ("", ["$__all"])
    for panel in PANELS:
        for target in panel["targets"]:
            assert 'job=~"$job"' in target["expr"], panel["title"]
            for selector in re.findall(r"caspen_sync_unserved_\w+\{([^}]*)\}", target["expr"]):
                assert "account" not in selector, panel["title"]


def test_nothing_lies_over_anything_else() -> None:
    """Ids and titles are unique, each panel is within Grafana's 24 columns, and no two share a cell."""
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len({panel["title"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        pos = panel["gridPos"]
        assert pos["x"] + pos["w"] <= 24
        cells = {(pos["x"] + x, pos["y"] + y) for x in range(pos["w"]) for y in range(pos["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_says_what_it_means() -> None:
    """Each has a description that says what is well and what to do when it is not, a unit, and colours; those of the
    first row fit on any screen."""
    for panel in PANELS:
        assert re.search(r"\bwell\b|[Gg]reen", panel["description"]), panel["title"]
        assert "`" in panel["description"], panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        assert defaults["thresholds"]["steps"][0]["value"] is None, panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs), panel["title"]
    first_row = [panel for panel in PANELS if panel["gridPos"]["y"] == 0]
    assert sum(panel["gridPos"]["w"] for panel in first_row) == 24
    assert all(panel["type"] == "stat" and panel["targets"][0]["instant"] for panel in first_row)


def test_every_alert_says_what_to_do() -> None:
    """Each has a severity, a summary in a line, and a description that names a command; names are unique, and the
    README's table tells of each with its severity."""
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}
        assert "\n" not in rule["annotations"]["summary"]
        assert "`" in rule["annotations"]["description"], rule["alert"]
    told = re.findall(r"^\| `(CaspenSync\w+)` \| (\w+) \|", README, re.MULTILINE)
    assert told == [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]


def test_commands_that_are_named_exist() -> None:
    """What people are told to type stands between backticks, and caspen-sync takes it, with a number put in."""
    texts = [rule["annotations"]["description"] for rule in RULES]
    texts += [panel["description"] for panel in DASHBOARD["panels"]]
    quoted = {words for text in texts for words in re.findall(r"`(?:caspen-sync )?([^`]+)`", text)}
    ours = {words for words in quoted if not words.startswith(("systemctl ", "journalctl "))}
    for words in ours:
        args = re.sub(r"\bID\b", "1", words).split()
        assert parser(args).parse_args(args).handler
    commands = {words.split()[0] for words in ours}
    assert commands >= {"status", "check", "parked", "attempts", "resume", "backfill", "unit"}
    assert not [text for text in texts if re.search(rf"(?<!`)caspen-sync ({'|'.join(commands)})\b", text)]


@pytest.mark.parametrize(("kind", "text"), [("dashboard", grafana.dashboard()), ("alerts", grafana.alerts())])
async def test_the_command_prints_the_file(kind: str, text: str, tmp_path: Path) -> None:
    """To the byte, and nothing else, where there is neither a configuration nor a database, and in the poorest of
    locales."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("CASPEN_SYNC_", "PG"))}
    env = bare | {"PYTHONPATH": str(CHECKOUT), "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    ended = await command("grafana", kind, env=env, cwd=str(tmp_path))
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, text, "")
    file = {"dashboard": "dashboard.json", "alerts": "alerts.yml"}[kind]
    assert (ALERTS.parent / file).read_bytes() == text.encode("ascii")


@pytest.mark.parametrize(
    ("shell", "exit_code", "words"),
    [
        ("grafana dashboard > /dev/full", 69, "caspen-sync: No space left on device\n"),
        ("grafana alerts > /dev/full", 69, "caspen-sync: No space left on device\n"),
        ("grafana dashboard | :", 0, ""),
        ("grafana", 64, "the following arguments are required: KIND\n"),
        ("grafana rules", 64, "(choose from"),
        ("grafana alerts --dsn x", 64, "unrecognized arguments: --dsn\n"),
    ],
)
async def test_what_goes_wrong_is_one_line(shell: str, exit_code: int, words: str) -> None:
    """A full disk, a reader that has seen enough and bad usage end as they do for every command."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-o",
        "pipefail",
        "-c",
        f'"{sys.executable}" -m worker {shell}',
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, out) == (exit_code, b"")
    assert words in err.decode()
    assert b"Traceback" not in err


@pytest.mark.parametrize("args", [(), ("dashboard",), ("alerts",)])
async def test_its_help(args: tuple[str, ...]) -> None:
    """Each says what it prints."""
    ended = await command("grafana", *args, "--help")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: caspen-sync grafana")
    assert "Grafana" in ended.stdout or "Prometheus" in ended.stdout


def _keys(value: Any, key: str) -> Iterator[Any]:
    """Every value that stands under this key, however deep."""
    if isinstance(value, dict):
        yield from (inner for name, inner in value.items() if name == key)
    inners = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for inner in inners:
        yield from _keys(inner, key)
