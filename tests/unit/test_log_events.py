"""The README's table of log events, held to the code: every name and its level, and no name that is gone."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# The methods that log, and at which level.
METHODS = {level: level for level in ("debug", "info", "warning", "error")} | {"about": "warning"}
# Reported by worker/privacy.py for others, at whatever level they said it.
OF_OTHERS = {"library", "python_warning", "thread_died", "unraisable"}


def logged() -> dict[str, set[str]]:
    """The events in the code, and the levels at which each is logged."""
    events: dict[str, set[str]] = defaultdict(set)
    for path in (CHECKOUT / "worker").rglob("*.py"):
        if "sandbox" in path.parts:
            continue
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
                for name in _names(call.args[0] if call.args else None):
                    events[name].add(METHODS[call.func.attr])
    return events


def _names(event: ast.expr | None) -> Iterator[str]:
    if isinstance(event, ast.Constant) and isinstance(event.value, str):
        yield event.value
    elif isinstance(event, ast.IfExp):
        yield from _names(event.body)
        yield from _names(event.orelse)


def listed() -> dict[str, set[str]]:
    """The events in the README, and the levels that it gives."""
    section = (CHECKOUT / "README.md").read_text("utf-8").split("\n## Logs\n")[1].split("\n## ")[0]
    rows = (line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `"))
    table: dict[str, set[str]] = {}
    for names, levels in rows:
        events = re.findall(r"`(\w+)`", names)
        said = [level.strip() for level in levels.split(",")]
        for number, event in enumerate(events):
            table[event] = {said[number if len(said) == len(events) else 0]}
    return table


def test_every_event_is_listed() -> None:
    """With its level; and nothing is listed that is not logged."""
    table = listed()
    assert set(table) - OF_OTHERS == set(logged())
    for event, levels in logged().items():
        assert levels == table[event], event
