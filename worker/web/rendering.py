"""Templates, and how numbers, times and other people's texts look in them.

Every value is escaped by Jinja, and passes `plain` where it may hold what steers or turns text.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from worker.jsontext import json_text
from worker.privacy import printable, redacted
from worker.web import charts
from worker.web.verdict import clipped, span
from worker.words import counted, visible

HERE = Path(__file__).parent
# How an outcome is called on the page; `attempts` has our own word for it.
OUTCOMES = {
    "synced": "accepted",
    "rejected": "rejected",
    "retry": "not done, sent again",
    "unknown": "not answered, sent again",
    "not_sent": "not sent: no way there",
    "throttled": "told to wait",
    "refused": "access token refused",
}
STATES = {
    "pending": "waits to be sent",
    "synced": "has reached Caspen",
    "parked": "is parked: it waits for a person to decide",
    "discarded": "was given up",
}


@cache
def environment() -> Environment:
    """Where the templates are; made when somebody looks for the first time."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        span=_span,
        clock=_clock,
        iso=datetime.isoformat,
        counted=counted,
        number=_number,
        visible=visible,
        plain=_plain,
        digest=_digest,
        clipped=clipped,
        json=json_text,
        outcome=lambda word: OUTCOMES.get(word, word),
        state=lambda word: STATES[word],
    )
    made.globals.update(line=charts.line, bars=charts.bars, kind_of=charts.kind_of)
    return made


def rendered(template: str, **values: Any) -> str:
    """The template's text with these values in it."""
    return environment().get_template(template).render(**values)


def _digest(text: str) -> str:
    """What an element is known by whose name may hold anything."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def _plain(text: str | None) -> str:
    return printable(redacted(text or ""))


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _span(seconds: float | None) -> str:
    return "\N{EN DASH}" if seconds is None else span(seconds)


def _clock(at: datetime | None) -> Markup:
    """A moment, in this host's zone: the time today, else with the day."""
    if at is None:
        return Markup("\N{EN DASH}")
    local = at.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    shown = local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}">{}</time>').format(local.isoformat(timespec="seconds"), shown)
