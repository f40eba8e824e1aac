"""The textfile: what goes on from one run to the next, what starts anew, and who may write when."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric

from tests.support.web import Metrics
from worker import textfile
from worker.textfile import add_to


def families(
    *, counted: float = 0, label: str = "a", seen: tuple[float, ...] = (), buckets: tuple[float, ...] = (1.0, 5.0)
) -> list[Metric]:
    """What a run has to say."""
    registry = CollectorRegistry()
    Counter("c", "counted", ["l"], registry=registry).labels(label).inc(counted)
    histogram = Histogram("h", "seen", ["l"], buckets=buckets, registry=registry).labels(label)
    for value in seen:
        histogram.observe(value)
    Gauge("g", "now", registry=registry).set(counted)
    return list(registry.collect())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "caspen-sync.prom"


def read(file: Path) -> Metrics:
    return Metrics(file.read_text("utf-8"))


def test_counters_add_up_and_gauges_do_not(file: Path) -> None:
    """Of two runs: the sum of what they counted and saw, and the last one's gauge. The first finds no file, which is
    nothing to complain of."""
    assert add_to(file, families(counted=2, seen=(0.5, 3))) is None
    assert add_to(file, families(counted=3, seen=(9,))) is None
    found = read(file)
    assert found.families() == {"c_total": "counter", "h": "histogram", "g": "gauge"}
    assert found.value("c_total") == 5
    assert found.value("g") == 3
    assert found.values("h_bucket", l="a") == {("1.0",): 1, ("5.0",): 2, ("+Inf",): 3}
    assert (found.value("h_count"), found.value("h_sum")) == (3, 12.5)


def test_series_of_before_are_kept(file: Path) -> None:
    """What an earlier run counted under other labels stays, whatever is in a label."""
    strange = 'a"\\b\nc'
    add_to(file, families(counted=2, label=strange, seen=(3,)))
    add_to(file, families(counted=3, label="b", seen=(3,)))
    assert read(file).values("c_total") == {(strange,): 2, ("b",): 3}
    assert read(file).values("h_count") == {(strange,): 1, ("b",): 1}


def test_other_buckets_start_anew(file: Path) -> None:
    """A version with other buckets does not add apples to oranges."""
    add_to(file, families(counted=2, seen=(0.5, 3)))
    add_to(file, families(counted=3, seen=(9,), buckets=(1.0, 10.0)))
    assert read(file).values("h_bucket", l="a") == {("1.0",): 0, ("10.0",): 1, ("+Inf",): 1}
    assert (read(file).value("h_count"), read(file).value("c_total")) == (1, 5)


def test_what_there_is_no_more(file: Path) -> None:
    """Families that this version does not have, or has as another kind, are not carried along."""
    add_to(file, families(counted=2))
    registry = CollectorRegistry()
    Gauge("c_total", "another kind", ["l"], registry=registry).labels("a").set(7)
    add_to(file, list(registry.collect()))
    assert read(file).families() == {"c_total": "gauge"}
    assert read(file).value("c_total") == 7


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"c_total{", "is no file of metrics"),
        (b"\xff\xfe", "is no file of metrics"),
        (b'# TYPE c_total counter\nc_total{l="a"} NaN\n', "has counts that cannot be"),
        (b'# TYPE c_total counter\nc_total{l="a"} -1\n', "has counts that cannot be"),
        (b'# TYPE c_total counter\nc_total{l="a"} +Inf\n', "has counts that cannot be"),
    ],
)
def test_a_garbled_file_starts_anew(file: Path, content: bytes, why: str) -> None:
    """It is said which file and why, and what this run counted is written."""
    file.write_bytes(content)
    assert add_to(file, families(counted=2)) == f"{file}: {why}; its counters start anew"
    assert read(file).value("c_total") == 2


def test_a_huge_file_is_not_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be ours costs no memory."""
    monkeypatch.setattr(textfile, "LARGEST_BYTES", 100)
    file.write_bytes(b"#" * 101)
    assert add_to(file, families(counted=2)) == f"{file}: is too large to be ours; its counters start anew"


LINES = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(
            ["# TYPE c counter", "# TYPE c_total counter", "# HELP c", 'c_total{l="a"} 1', 'h_bucket{l="a",le="1.0"} 4',
             "# TYPE h histogram", "c_total 1 2 3", "c_total{} x", '{"c_total"} 1', "h_sum{l=} 1", "# TYPE", "#"]
        ),
    ),
    max_size=8,
)  # fmt: skip


@given(st.one_of(LINES.map("\n".join).map(str.encode), st.binary(max_size=200)))
def test_whatever_the_file_holds(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """No content of the old file keeps a run from writing a file that can be read again."""
    file = tmp_path_factory.mktemp("any") / "any.prom"
    file.write_bytes(content)
    add_to(file, families(counted=2))
    assert read(file).values("c_total")[("a",)] >= 2
    assert add_to(file, families(counted=2)) is None


def test_who_may_read_it_and_what_is_beside_it(file: Path) -> None:
    """Everybody may read it, whatever the umask; no other file stays in the folder."""
    before = os.umask(0o077)
    try:
        add_to(file, families())
        add_to(file, families())
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_a_killed_run_left_behind(file: Path) -> None:
    """Half a temporary file is no part of what node_exporter reads, and the next run does away with it."""
    left = file.with_name(f".{file.name}.tmp")
    left.write_text("c_total{")
    assert add_to(file, families(counted=1)) is None
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_nobody_is_led_elsewhere(file: Path, tmp_path: Path) -> None:
    """A link in the temporary file's place is not followed, and what it leads to is not written."""
    other = tmp_path / "other"
    other.write_text("precious")
    file.with_name(f".{file.name}.tmp").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        add_to(file, families())
    assert other.read_text() == "precious"


@pytest.fixture
def held(file: Path) -> Iterator[int]:
    """Another process's lock on the folder."""
    descriptor = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


def test_one_waits_for_another(file: Path, held: int) -> None:
    """While another run holds the lock, nothing is read or written; once it is given back, all is well."""
    adding = threading.Thread(target=add_to, args=(file, families(counted=1)))
    adding.start()
    add_later = time.monotonic() + 0.1
    while time.monotonic() < add_later:
        assert not file.exists()
    fcntl.flock(held, fcntl.LOCK_UN)
    adding.join(timeout=textfile.LOCK_S)
    assert read(file).value("c_total") == 1


def test_nobody_waits_for_ever(file: Path, held: int) -> None:
    """A lock that is not given back is an error that says so."""
    with pytest.raises(OSError, match=r"another process has held the folder's lock for 0\.1 s"):
        add_to(file, families(), patience_s=0.1)
    assert held
    assert not file.exists()
