"""A file for node_exporter's textfile collector, to which each run of a cron job adds what it has counted.

Counters and histograms go on from what the file says, gauges are replaced. One run at a time reads and writes; the
file goes from one whole state to the next, and nothing that node_exporter would read is ever beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

# What goes on from one run to the next.
_ADDED_UP = ("counter", "histogram")
# For another run, which holds the lock for milliseconds.
LOCK_S = 5.0
LOCK_EVERY_S = 0.02
# Ours has some ten thousand.
LARGEST_BYTES = 16 * 1024 * 1024


class Garbled(Exception):
    """The file is not one that we wrote."""


def add_to(file: Path, families: Sequence[Metric], *, patience_s: float = LOCK_S) -> str | None:
    """Writes the families, on top of what the file says. Returns what was the matter with the old file, if anything:
    then the counters start anew. Raises OSError when it cannot be written, or when others hold the lock for longer than
    `patience_s`."""
    with _alone_in(file.parent, patience_s):
        complaint = None
        try:
            before = _before(file)
        except Garbled as error:
            before, complaint = [], f"{file}: {error}; its counters start anew"
        _replace(file, _text(merged(before, families)))
    return complaint


def merged(before: Iterable[Metric], families: Iterable[Metric]) -> list[Metric]:
    """The families, with what they counted before added to their counters and histograms. Series that they do not have
    now are kept; a histogram whose buckets were others starts anew."""
    old = {family.name: family for family in before}
    return [_added_up(old.get(family.name), family) for family in families]


def _added_up(before: Metric | None, family: Metric) -> Metric:
    if before is None or family.type not in _ADDED_UP or before.type != family.type:
        return family
    children = _children(family.samples)
    shapes = {frozenset(child) for child in children.values()}
    for labels, old in _children(before.samples).items():
        if shapes and frozenset(old) not in shapes:
            continue
        child = children.setdefault(labels, dict.fromkeys(old, 0.0))
        for place, value in old.items():
            child[place] += value
    total = Metric(family.name, family.documentation, family.type)
    for labels, child in children.items():
        for (name, le), value in child.items():
            total.add_sample(name, dict(labels) | ({} if le is None else {"le": le}), value)
    return total


_Labels = frozenset[tuple[str, str]]
# A sample within its child: its name, and the upper end of its bucket.
_Place = tuple[str, str | None]


def _children(samples: Iterable[Sample]) -> dict[_Labels, dict[_Place, float]]:
    """The values of each child of a family: one number of a counter, all those of a histogram."""
    found: dict[_Labels, dict[_Place, float]] = {}
    for sample in samples:
        labels = frozenset((name, value) for name, value in sample.labels.items() if name != "le")
        found.setdefault(labels, {})[sample.name, sample.labels.get("le")] = sample.value
    return found


def _before(file: Path) -> list[Metric]:
    """What the file says; nothing when there is none, as before the first run. Raises Garbled."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        return []
    if len(content) > LARGEST_BYTES:
        raise Garbled("is too large to be ours")
    try:
        families = list(text_string_to_metric_families(content.decode("utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError):  # the parser has no error of its own
        raise Garbled("is no file of metrics") from None
    counted = [sample.value for family in families if family.type in _ADDED_UP for sample in family.samples]
    if not all(math.isfinite(value) and value >= 0 for value in counted):
        raise Garbled("has counts that cannot be")
    return families


def _text(families: Sequence[Metric]) -> bytes:
    class Collected(CollectorRegistry):
        def collect(self) -> Iterable[Metric]:
            return families

    return generate_latest(Collected())


def _replace(file: Path, content: bytes) -> None:
    """All at once. A run that is killed in the middle leaves the temporary file to the next one."""
    temporary = file.with_name(f".{file.name}.tmp")  # node_exporter reads *.prom
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            os.fchmod(descriptor, 0o644)  # whatever the umask: node_exporter is somebody else
            opened.write(content)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _alone_in(folder: Path, patience_s: float) -> Iterator[None]:
    """Holds a lock on the folder itself, which leaves no file behind. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, patience_s)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _lock(descriptor: int, patience_s: float) -> None:
    ends_at = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > ends_at:
                raise TimeoutError(0, f"another process has held the folder's lock for {patience_s:.2g} s") from None
            time.sleep(LOCK_EVERY_S)
        else:
            return
