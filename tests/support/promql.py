"""What can be told of a PromQL expression without Prometheus: which series it names, with which labels, and whether it
treats counters, histograms and gauges as such. promtool says whether it parses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

# What Prometheus adds to each series that it scrapes.
TARGET = frozenset({"job", "instance"})
_NAME = r"\b(?P<name>caspen_sync_\w+|process_\w+|up)\b"
_SERIES = re.compile(_NAME + r"(?:\{(?P<labels>(?:[^}\"]|\"(?:[^\"\\]|\\.)*\")*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"(?:[^\"\\]|\\.)*\"")
_CALL = re.compile(r"\b(?P<word>[a-z_]+)\s*(?:by\s*\((?P<by>[^)]*)\)\s*)?\(")
_TEMPLATE = re.compile(r"\$\w+|\$\{|\[\[")
_HISTOGRAM = ("_bucket", "_count", "_sum")


@dataclass(frozen=True, slots=True)
class Known:
    """The series that there are."""

    labels: Mapping[str, frozenset[str]]
    """Of each sample's name."""
    types: Mapping[str, str]
    """Of each family: counter, gauge, histogram."""
    shared: AbstractSet[str]
    """Gauges that every process tells alike."""

    def type_of(self, name: str) -> str:
        """Of a sample."""
        family = next((name.removesuffix(end) for end in _HISTOGRAM if self.types.get(name.removesuffix(end))), name)
        return self.types[family]


@dataclass(frozen=True, slots=True)
class Call:
    """A function or an aggregation, and what stands between its parentheses."""

    word: str
    by: frozenset[str]
    start: int
    end: int


def labels_of(scrape: str) -> dict[str, frozenset[str]]:
    """The labels of each sample in a scrape, by its name, besides those that Prometheus adds."""
    found: dict[str, frozenset[str]] = {}
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, frozenset()) | sample.labels.keys()
    return found


def named(expr: str) -> set[str]:
    """The samples that an expression names."""
    return {match["name"] for match in _SERIES.finditer(expr)}


def plain(expr: str) -> str:
    """The expression of a panel with its variables replaced, as Grafana does. Raises AssertionError over one that is
    not known."""
    told = expr.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$account", "(?s:.*)")
    assert not _TEMPLATE.search(told), expr
    return told


def complaints(expr: str, known: Known) -> Iterator[str]:
    """What is wrong with an expression."""
    calls = list(_calls(expr))
    for match in _SERIES.finditer(expr):
        if match["name"] == "up":
            continue
        if match["name"] not in known.labels:
            yield f"{match['name']} does not exist"
            continue
        has = known.labels[match["name"]] | TARGET
        yield from (f"{match['name']} has no label {label}" for label in _matched(match["labels"]) - has)
        yield from _mistreated(match, expr, [call for call in calls if call.start <= match.start() < call.end], known)
    for call in calls:
        inside = {name: known.labels.get(name, frozenset()) | TARGET for name in named(expr[call.start : call.end])}
        if call.by and not any(call.by <= has | _made(expr[call.start : call.end]) for has in inside.values()):
            yield f"nothing in {call.word} has all of {', '.join(sorted(call.by))}"
    for words in re.findall(r"\bon\s*\(([^)]*)\)", expr):
        every = TARGET.union(*known.labels.values())
        yield from (f"on a label that nothing has: {label}" for label in _words(words) - every)


def _mistreated(match: re.Match[str], expr: str, around: list[Call], known: Known) -> Iterator[str]:
    name, kind = match["name"], known.type_of(match["name"])
    words = [call.word for call in around]
    ranged = expr[match.end() : match.end() + 1] == "["
    rated = ranged and words[-1:] in (["rate"], ["increase"])
    if kind in ("counter", "histogram") and not rated:
        yield f"{name} is a {kind}, and only its rate or increase says something"
    if kind == "gauge" and rated:
        yield f"{name} is a gauge, and has no rate"
    if name.endswith("_bucket"):
        sums = [call for call in around if call.word == "sum"]
        if "histogram_quantile" not in words or not sums or "le" not in sums[-1].by:
            yield f"{name} is for histogram_quantile over a sum by le"
    # Of what encloses it, from the inside: the first that joins processes is to be max or min.
    joining = [call.word for call in reversed(around) if call.word in ("sum", "max", "min", "avg", "count", "topk")]
    if name in known.shared and joining and joining[0] not in ("max", "min"):
        yield f"{name} is told by each process alike, and is not to be summed over them"
    of_a_process = kind == "gauge" and name not in known.shared and "account" in known.labels[name]
    if of_a_process and joining[:1] != ["sum"]:
        yield f"{name} is told by each process for itself, and is to be summed"


def _calls(expr: str) -> Iterator[Call]:
    """From the outside to the inside."""
    blanked = re.sub(r"\"(?:[^\"\\]|\\.)*\"", lambda text: "_" * len(text[0]), expr)
    for match in _CALL.finditer(blanked):
        if match["word"] in ("on", "by", "and", "or", "unless", "ignoring", "bool"):
            continue
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(blanked[end], 0)
            end += 1
        yield Call(match["word"], frozenset(_words(match["by"] or "")), match.end(), end)


def _matched(labels: str | None) -> set[str]:
    return set(_MATCHER.findall(labels or ""))


def _made(expr: str) -> set[str]:
    """Labels that the expression makes itself."""
    return set(re.findall(r"label_replace\(.*?,\s*\"(\w+)\",", expr, re.DOTALL))


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}


def promtool(*args: str | Path) -> str:
    """What promtool says to a file that it likes. Raises AssertionError when it does not."""
    assert shutil.which("promtool"), "promtool is missing: apt-get install prometheus"
    less_collecting = os.environ | {"GOGC": "400"}  # it takes a quarter less time
    ended = subprocess.run(["promtool", *args], text=True, capture_output=True, check=False, env=less_collecting)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
