"""`check` in this process, and its findings by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.processes import TOKEN
from worker.check import Finding, Verdict, check
from worker.check.database import look_into
from worker.config import Settings, validated


def settings_for(dsn: str = "", base_url: str = "http://127.0.0.1:9/v1", **sections: Mapping[str, Any]) -> Settings:
    """Sound settings, with these sections instead of their own; no address is listened on."""
    values: dict[str, Any] = {
        "database": {"dsn": dsn},
        "api": {"base_url": base_url},
        "accounts": {"default": {"token": TOKEN}},
        "http": {"listen": ""},
    }
    return validated(values | sections)


async def looked(dsn: str, **sections: Mapping[str, Any]) -> dict[str, Finding]:
    """What was found over the database's connection."""
    return by_name((await look_into(settings_for(dsn, **sections), slots_for=[])).findings)


async def asked(settings: Settings) -> list[Finding]:
    """Everything, with one request for each account."""
    return await check(lambda: settings, asking=True)


def by_name(findings: Sequence[Finding]) -> dict[str, Finding]:
    """For findings that are there once."""
    names = [finding.name for finding in findings]
    assert len(names) == len(set(names)), names
    return {finding.name: finding for finding in findings}


def verdicts(findings: Mapping[str, Finding]) -> dict[str, str]:
    return {name: str(finding.verdict) for name, finding in findings.items()}


def holds(finding: Finding, verdict: Verdict, said: str, mend: str = "") -> None:
    """The finding has this verdict, and its sentence and its mend hold these words. Whatever is not well has a mend."""
    assert finding.verdict is verdict, finding
    assert said in finding.said, finding
    assert mend in (finding.mend or ""), finding
    assert (finding.mend is not None) == (verdict in (Verdict.WARNING, Verdict.FAILED)), finding


def scanned(node: dict[str, object]) -> list[tuple[object, float]]:
    """Each scan of a table, and how many rows it read, those that it threw away included."""
    here = []
    if "Relation Name" in node:
        rows = float(str(node["Actual Rows"])) + float(str(node.get("Rows Removed by Filter", 0)))
        here.append((node["Node Type"], rows * float(str(node["Actual Loops"]))))
    plans = node.get("Plans", [])
    assert isinstance(plans, list)
    return [*here, *(scan for plan in plans for scan in scanned(plan))]
