"""`run --once --textfile`: cron jobs that node_exporter tells of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.test_metrics import documented
from tests.support.database import Database
from tests.support.outages import clinic
from tests.support.processes import Ended, command, environment
from tests.support.rawserver import closed_port
from tests.support.web import Metrics, assert_clean

NOWHERE = "http://127.0.0.1:1/v1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "collector"
    folder.mkdir()
    return folder / "caspen-sync.prom"


@pytest.fixture
def garbled(file: Path) -> Path:
    file.write_text("what?")
    return file


@pytest.fixture
def folder(file: Path) -> Path:
    """One that has a file's name."""
    named = file.with_name("folder.prom")
    named.mkdir()
    return named


async def run(file: Path, env: Mapping[str, str], *args: str) -> Ended:
    return await command("run", "--once", "--textfile", str(file), *args, env=env)


def read(file: Path) -> Metrics:
    return Metrics(file.read_text("utf-8"))


@pytest.mark.long
async def test_runs_add_up(database: Database, file: Path) -> None:
    """A run, one that finds nothing to do and another one: silent, counters of all, gauges of the last. What is in the
    file is what the README says, Prometheus's linter likes it, and node_exporter would take it: no times, nothing
    twice."""
    async with clinic(database) as one:
        await one.write(3)
        began = time.time()
        assert await run(file, one.env) == Ended(0, "", "")
        assert await run(file, one.env) == Ended(0, "", "")
        await one.write(2, note=2)
        assert await run(file, one.env) == Ended(0, "", "")
        assert len(one.sandbox.log) == 5
    found = read(file)
    assert found.value("caspen_sync_requests_total", outcome="synced", status="200") == 5
    assert found.value("caspen_sync_request_duration_seconds_count") == 5
    assert found.values("caspen_sync_commit_to_synced_seconds_count", account="default") == {
        ("live",): 5,
        ("backfill",): 0,
    }
    assert found.value("caspen_sync_backlog_changes", lane="live") == 0
    assert found.value("caspen_sync_database_up") == 1
    assert found.value("caspen_sync_last_run_exit_code") == 0
    assert began < found.value("caspen_sync_last_run_timestamp_seconds") <= time.time()
    assert 0 < found.value("caspen_sync_last_run_duration_seconds") < 60
    await assert_clean(found.text)

    only_of_a_service = ("caspen_sync_database_connections", "caspen_sync_database_connections_max")
    told = {name: kind for name, kind in documented().items() if name not in only_of_a_service}
    assert found.families() == told | documented(textfile=True)
    samples = [line.rpartition("}")[2] or line for line in found.text.splitlines() if not line.startswith("#")]
    assert all(len(sample.split()) <= 2 for sample in samples)
    assert "_created" not in found.text
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.long
async def test_runs_that_overlap_lose_nothing(database: Database, file: Path) -> None:
    """Of four runs at once, the file holds all requests that the API saw."""
    async with clinic(database, latency_s=0.05) as one:
        await one.write(80)
        ended = await asyncio.gather(*(run(file, one.env) for _ in range(4)))
        assert [one.exit_code for one in ended] == [0] * 4
        assert read(file).value("caspen_sync_requests_total", status="200") == len(one.sandbox.log) == 80


@pytest.mark.long
async def test_runs_that_fail(database: Database, file: Path) -> None:
    """What was counted stays, and the last run's exit code is told: a refused token, a database that is away, a
    configuration that is wrong."""
    async with clinic(database) as one:
        await one.write(2)
        assert (await run(file, one.env)).exit_code == 0
        await one.write(1, note=2)
        one.sandbox.set_tokens([])
        assert (await run(file, one.env)).exit_code == 77
        found = read(file)
        assert found.value("caspen_sync_last_run_exit_code") == 77
        assert found.value("caspen_sync_account_paused", kind="refused") == 1
        assert found.value("caspen_sync_requests_total", status="200") == 2
        assert found.value("caspen_sync_requests_total", status="401") >= 1

        away = one.env | {"CASPEN_SYNC_DATABASE__DSN": f"postgresql://127.0.0.1:{closed_port()}/clinic"}
        assert (await run(file, away)).exit_code == 69
        found = read(file)
        assert found.value("caspen_sync_last_run_exit_code") == 69
        assert found.value("caspen_sync_database_up") == 0
        assert "caspen_sync_backlog_changes" not in found.families()
        assert found.value("caspen_sync_requests_total", status="200") == 2

        assert (await run(file, one.env | {"CASPEN_SYNC_WORKER__POLL_S": "soon"})).exit_code == 78
        found = read(file)
        assert found.value("caspen_sync_last_run_exit_code") == 78
        assert found.value("caspen_sync_requests_total", status="200") == 2
        assert found.value("caspen_sync_request_duration_seconds_count") >= 3
        await assert_clean(found.text)


@pytest.mark.long
async def test_a_file_that_cannot_be_written(database: Database, file: Path, folder: Path) -> None:
    """One line on stderr, and the exit code is the run's own."""
    nowhere = file.parent / "nowhere" / "caspen-sync.prom"
    env = environment(database.dsn, NOWHERE)
    ended = await run(nowhere, env)
    assert ended == Ended(0, "", f"caspen-sync: --textfile {nowhere}: cannot be written: No such file or directory\n")
    ended = await run(folder, env)
    assert ended == Ended(0, "", f"caspen-sync: --textfile {folder}: cannot be written: Is a directory\n")


@pytest.mark.long
async def test_a_garbled_file(database: Database, garbled: Path) -> None:
    """One line on stderr that says which and why; it starts anew."""
    ended = await run(garbled, environment(database.dsn, NOWHERE))
    words = f"caspen-sync: --textfile {garbled}: is no file of metrics; its counters start anew\n"
    assert ended == Ended(0, "", words)
    assert read(garbled).value("caspen_sync_last_run_exit_code") == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--once", "--textfile", "x.txt"), "'x.txt' does not end in .prom"),
        (("--once", "--textfile", ".prom"), "'.prom' does not end in .prom"),
        (("--textfile", "x.prom"), "run: --textfile goes with --once"),
    ],
)
async def test_usage(args: tuple[str, ...], words: str) -> None:
    """node_exporter reads *.prom and nothing else, and a service is scraped: 64."""
    ended = await command("run", *args, env=environment("", NOWHERE))
    assert ended.exit_code == 64
    assert words in ended.stderr


@pytest.mark.long
@pytest.mark.alone
async def test_max_runtime_holds(database: Database, file: Path) -> None:
    """What is written at the end takes no more than a second from who is in a hurry."""
    async with clinic(database, latency_s=0.2, ACCOUNTS__DEFAULT__CONCURRENCY="1") as one:
        await one.write(60)
        ended = await run(file, one.env, "--max-runtime", "2")
    assert ended.exit_code == 75
    found = read(file)
    assert found.value("caspen_sync_last_run_exit_code") == 75
    assert found.value("caspen_sync_last_run_duration_seconds") < 3
    assert found.value("caspen_sync_backlog_changes", lane="live") > 0
