"""Worlds in which Prometheus evaluates the alerting rules: one that is well, minute by minute, and what is changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from worker.grafana import alerts

SERVICE = {"job": "caspen-sync", "instance": "a:9464"}
CRON = {"job": "node", "instance": "h:9100"}
KINDS = ("throttled", "down", "rejected", "refused", "manual")

# Series to values: a number, a rise (+5), or promtool's notation with END for as long as it goes.
World = dict[str, str]
END = "{end}"


def key(name: str, **labels: str) -> str:
    """A series as promtool writes it."""
    return f"{name}{{{', '.join(f'{label}={json.dumps(value)}' for label, value in sorted(labels.items()))}}}"


def account(target: Mapping[str, str], name: str = "default") -> World:
    """One that is busy and well: something is pending at each look, and ten changes a minute are synced in a second."""
    values = {
        key("caspen_sync_backlog_changes", lane="live"): "1",
        key("caspen_sync_backlog_changes", lane="backfill"): "0",
        key("caspen_sync_oldest_pending_age_seconds"): "1",
        key("caspen_sync_parked_changes"): "0",
        key("caspen_sync_appointments_backing_off"): "0",
        key("caspen_sync_budget_limit"): "60",
        key("caspen_sync_budget_free"): "50",
        key("caspen_sync_budget_held_back"): "0",
        key("caspen_sync_changes_total", state="synced"): "+10",
        key("caspen_sync_changes_total", state="parked"): "0",
        key("caspen_sync_leases_lost_total"): "0",
        key("caspen_sync_mismatches_total"): "0",
        **{key("caspen_sync_account_paused", kind=kind): "0" for kind in KINDS},
        **synced("live", fast="+10"),
        **synced("backfill"),
    }
    return on(target | {"account": name}, values)


def synced(lane: str, *, fast: str = "0", slow: str = "0") -> World:
    """The histogram of changes that took a second, or most of an hour."""
    name = "caspen_sync_commit_to_synced_seconds"
    both = "+20" if fast == slow == "+10" else next((values for values in (fast, slow) if values != "0"), "0")
    return {
        key(f"{name}_bucket", lane=lane, le="1"): fast,
        key(f"{name}_bucket", lane=lane, le="900"): fast,
        key(f"{name}_bucket", lane=lane, le="3600"): both,
        key(f"{name}_bucket", lane=lane, le="+Inf"): both,
        key(f"{name}_count", lane=lane): both,
    }


def lag(*, slow: bool = False) -> World:
    """The histogram of the loop, which is on time, or late by most of a second."""
    name = "caspen_sync_loop_lag_seconds_bucket"
    return {key(name, le="0.01"): "0" if slow else "+120", key(name, le="1"): "+120", key(name, le="+Inf"): "+120"}


def process(target: Mapping[str, str], *, workers: str = "1") -> World:
    """What a service and a cron job have in common."""
    values = {
        key("up"): "1",
        key("caspen_sync_build_info", version="1.0"): "1",
        key("caspen_sync_database_up"): "1",
        key("caspen_sync_workers"): workers,
        key("caspen_sync_unserved_accounts"): "0",
        key("caspen_sync_database_faults_total"): "0",
        **lag(),
    }
    return on(target, values)


def service(target: Mapping[str, str] = SERVICE) -> World:
    """A service with one account."""
    return process(target) | account(target) | on(target, {key("caspen_sync_database_connections_max"): "9"})


def cron(target: Mapping[str, str] = CRON) -> World:
    """A job that runs each minute, told by node_exporter: no worker is alive between two runs."""
    last = {
        key("caspen_sync_last_run_timestamp_seconds"): "+60",
        key("caspen_sync_last_run_exit_code"): "0",
        key("caspen_sync_last_run_duration_seconds"): "3",
    }
    return process(target, workers="0") | account(target) | on(target, last)


def on(labels: Mapping[str, str], values: World) -> World:
    """The same series with these labels as well."""
    found = {}
    for series, told in values.items():
        name, inside = series.removesuffix("}").split("{", 1)
        others = {label: json.loads(value) for label, value in re.findall(r"(\w+)=(\"(?:[^\"\\]|\\.)*\")", inside)}
        found[key(name, **others, **labels)] = told
    return found


def only(world: World, *names: str) -> World:
    """Those of these names."""
    return {
        series: told for series, told in world.items() if series.split("{")[0].removeprefix("caspen_sync_") in names
    }


def away(world: World, *, after: int, minutes: int | None = None) -> World:
    """The same, not scraped for so many minutes, or from then on: `up` is 0 meanwhile, and counters start anew."""
    found = {}
    for series, told in world.items():
        up = series.startswith("up{")
        again = "" if minutes is None else f" {steadily(told)}"
        for_how_long = END if minutes is None else f"{minutes - 1}"
        gone = f"0+0x{for_how_long}" if up else f"stale _x{for_how_long}"
        found[series] = f"{steadily(told, after)} {gone}{again}"
    return found


def steps(*parts: int) -> str:
    """A value and for how many minutes, again and again; the last one stands."""
    *before, last = parts
    pairs = zip(before[::2], before[1::2], strict=True)
    return " ".join([*(f"{value}+0x{minutes - 1}" for value, minutes in pairs), f"{last}+0x{END}"])


def steadily(told: str, minutes: int | str = END) -> str:
    """`5` is 5 all the time, `+5` is 5 more each minute; anything else is in promtool's notation already."""
    if re.fullmatch(r"\d+", told):
        return f"{told}+0x{minutes}"
    return f"0{told}x{minutes}" if re.fullmatch(r"\+\d+", told) else told


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world, and which alerts have fired in it by a minute."""

    name: str
    minute: int
    world: World
    fires: frozenset[str] = frozenset()
    beside: str = ""
    """Of one that is calm: the alert that it comes near to."""
    accounts: frozenset[str] = field(default=frozenset())
    """When given: the labels `account` of what fires."""

    def test(self) -> dict[str, object]:
        """It, for promtool. Whatever fired at any minute counts, so an alert that flaps is found."""
        fired = 'count_over_time(ALERTS{alertstate="firing"}[7d])'
        asked = [(f"group by (alertname) ({fired})", "alertname", self.fires)]
        if self.accounts:
            asked.append((f"group by (account) ({fired})", "account", self.accounts))
        return {
            "name": self.name,
            "interval": "1m",
            "input_series": [
                {"series": series, "values": steadily(told).replace(END, str(self.minute + 1))}
                for series, told in self.world.items()
            ],
            "promql_expr_test": [
                {
                    "expr": expr,
                    "eval_time": f"{self.minute}m",
                    "exp_samples": [{"labels": key("", **{label: value}), "value": 1} for value in sorted(values)],
                }
                for expr, label, values in asked
            ],
        }


def write(scenarios: Iterable[Scenario], folder: Path) -> Path:
    """A file for `promtool test rules`, in JSON, which is YAML, too; with the rules beside it."""
    (folder / "alerts.yml").write_text(alerts(), encoding="utf-8")
    file = folder / "tests.json"
    tests = [scenario.test() for scenario in scenarios]
    file.write_text(
        json.dumps({"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}), encoding="utf-8"
    )
    return file
