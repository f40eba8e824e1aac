"""Texts of somebody who wants more than to be read, and what must be true after they were written everywhere.

Each holds the word HACKED, by which it is found where it does not belong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from tests.support.database import Database

# By what each of them is after. A NUL is in none: Postgres takes it in no text.
TEXTS: Mapping[str, str] = {
    "sql quote": "'; DROP TABLE caspen_sync.outbox; CREATE TABLE public.hacked (); --",
    "sql true": 'hacked\' OR 1=1 -- " OR ""="',
    "sql escape": "hacked\\'; DROP SCHEMA caspen_sync CASCADE; -- E'\\\\'",
    "parameters": "hacked $1 %s %(hacked)s {0} {hacked.__class__} ${hacked} $$ %",
    "templates": "{{ hacked.__class__ }}{% include 'hacked' %}{# hacked #}[red]hacked[/]",
    "html": "</title></script></bdi></textarea><script>hacked()</script><hacked data-hacked=1>",
    "attribute": '"><img src=x onerror=hacked()>\' onfocus=hacked() autofocus hacked="',
    "link": "javascript:hacked()//https://hacked.example/",
    "log lines": 'hacked\r\n{"event": "hacked", "level": "info"}\nevent=hacked\x85\u2028event=hacked\u2029',
    "terminal": "hacked\x1b[2J\x1b]0;hacked\x07\x9b31m\x08\x7f",
    "direction": "hacked\u202egnp.exe\u2066\u200f",
    "metrics": 'hacked"} 1\ncaspen_sync_hacked{x="\\',
    "path": "../../../hacked",
    "escaped path": "%2e%2e/%2e%2e/hacked",
    "url": "hacked/..//x?hacked=1&x=%00#hacked;x",
    "request": "hacked HTTP/1.1\r\nX-Hacked: 1\r\n\r\nGET /hacked",
    "formula": "=cmd|'/c hacked'!A1",
    "shell": "$(hacked)`hacked`; hacked & | > /tmp/hacked '",
    "option": "--hacked=/etc/passwd",
}
# What no line that people read may hold, with what ends a line for whoever reads it.
STEERING = frozenset("\x1b\x07\x08\x7f\x9b\u202e\u2066\u200f\r\v\f\x85\u2028\u2029")

_CATALOGUE = """
SELECT n.nspname || '.' || c.relname || '.' || coalesce(a.attname, '') AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT n.nspname || '.' || p.oid::regprocedure || md5(p.prosrc)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1
"""
_TABLES = (
    "SELECT relname FROM pg_class WHERE relnamespace = 'caspen_sync'::regnamespace AND relkind IN ('r', 'p') "
    "AND NOT relispartition"
)


async def catalogue(database: Database) -> list[str]:
    """Every table with its columns, every index and every function that there is."""
    return [row["name"] for row in await database.rows(_CATALOGUE)]


async def tables_with(database: Database, word: str) -> set[str]:
    """The tables of which a row holds the word, in whatever column."""
    names = [row["relname"] for row in await database.rows(_TABLES)]
    held = "SELECT EXISTS (SELECT FROM caspen_sync.{} AS held WHERE position($1 IN held::text) > 0)"
    return {name for name in names if await database.value(held.format(name), word)}


async def counts(database: Database) -> dict[str, int]:
    """How many rows each table has."""
    names = [row["relname"] for row in await database.rows(_TABLES)]
    return {name: await database.value(f"SELECT count(*) FROM caspen_sync.{name}") for name in names}


def assert_log(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Each line is one event of ours as one JSON object, and nothing that a terminal or a reader would fall for."""
    events = []
    for line in lines:
        event = json.loads(line)
        assert isinstance(event, dict), line
        assert event["event"] != "hacked", line
        assert {"level", "timestamp"} <= event.keys(), line
        assert line.isascii(), line
        assert line.isprintable(), line
        events.append(event)
    assert events
    return events


def assert_metrics(text: str) -> None:
    """Prometheus's own parser reads them, and finds no series or label of anybody else's."""
    families = list(text_string_to_metric_families(text))
    assert families
    for family in families:
        for sample in family.samples:
            assert "hacked" not in sample.name
            assert not any("hacked" in label for label in sample.labels)


def assert_steers_nothing(text: str) -> None:
    """What a command printed is lines of text: nothing in it steers a terminal."""
    assert not set(text) & STEERING, sorted(set(text) & STEERING)
    assert text.replace("\n", "").isprintable()


@dataclass
class _Elements(HTMLParser):
    """What a browser would make of a page."""

    found: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def assert_page(text: str) -> None:
    """No element, attribute or link in the page is anybody's but ours, and no text turns another one around."""
    parser = _Elements()
    parser.feed(text)
    parser.close()
    assert parser.found
    for tag, attributes in parser.found:
        shown = f"<{tag} {attributes}>"[:500]
        assert tag not in ("hacked", "img", "iframe", "object", "base"), shown
        assert not any(name.startswith("on") or "hacked" in name or name == "style" for name in attributes), shown
        assert tag != "script" or attributes == {"src": "/page.js", "defer": None}, shown
        for name in ("href", "src", "action", "formaction"):
            link = attributes.get(name) or ""
            parts = urlsplit(link)
            assert not parts.scheme, shown
            assert not parts.netloc, shown
            assert link.isprintable(), shown
        # What a form carries unseen comes back as it was.
        unseen = attributes.get("type") == "hidden"
        parser.shown += [value or "" for name, value in attributes.items() if not (unseen and name == "value")]
    steering = set("".join(parser.shown)) & STEERING
    assert not steering, sorted(steering)
