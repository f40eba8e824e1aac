"""Looks for mutants: the tests run on a copy of the checkout in which one statement is another one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tests.mutants.operators import Mutant
from tests.mutants.selection import stages
from tests.support.servers import Server
from worker.sqlfiles import sql_dir

ROOT = sql_dir().parent
# A statement that waits for ever, or finds nothing for ever, is found by that.
_TEST_S = 60
_STAGE_S = 600
_FOR_EVER = "for ever"


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a mutant. `by`: the test that failed; None: none did."""

    statement: str
    mutant: Mutant
    by: str | None


async def can_run(server: Server, mutant: Mutant) -> bool:
    """Whether Postgres takes the mutant as a statement at all. Those that it does not take nobody has to find."""
    conn = await asyncpg.connect(server.dsn())
    try:
        await conn.prepare(mutant.sql)
    except asyncpg.PostgresError:
        return False
    finally:
        await conn.close()
    return True


async def search(
    wanted: Sequence[tuple[str, Mutant]], server: Server, folder: Path, jobs: int, told: Callable[[Found], None]
) -> list[Found]:
    """Tries mutants, so many at once, each in a copy of its own below `folder`. `told` hears of each at once."""
    queue: asyncio.Queue[tuple[str, Mutant]] = asyncio.Queue()
    for one in wanted:
        queue.put_nowait(one)
    results: list[Found] = []
    finders: list[str] = []

    async def work(nth: int) -> None:
        copy = copied(folder / str(nth))
        while not queue.empty():
            statement, mutant = queue.get_nowait()
            file = copy / "sql" / "queries" / f"{statement}.sql"
            original = file.read_text("utf-8")
            file.write_text(mutant.sql, "utf-8")
            found = Found(statement, mutant, await failing_test(copy, server, finders))
            file.write_text(original, "utf-8")
            if found.by not in (None, _FOR_EVER, *finders):
                finders.append(found.by)
            results.append(found)
            told(found)

    async with asyncio.TaskGroup() as group:
        for nth in range(jobs):
            group.create_task(work(nth))
    return results


def copied(folder: Path) -> Path:
    """A copy of what tests need."""
    for part in ("worker", "sql", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "config.example.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


async def failing_test(copy: Path, server: Server, finders: Sequence[str] = ()) -> str | None:
    """The first test that fails on this copy, or None. `finders`: tests that have found others, and come first."""
    for arguments in [finders, *stages()] if finders else stages():
        code, said = await _pytest(copy, server, arguments)
        if code is None:
            return _FOR_EVER
        if code == 1:
            failed = re.search(r"^FAILED (\S+)|^ERROR (\S+)", said, re.MULTILINE)
            if not failed:
                raise RuntimeError(f"a test failed, and did not say which: {said[-2000:]}")
            return failed[1] or failed[2]
        if code != 0:
            raise RuntimeError(f"pytest ended with {code}: {said[-2000:]}")
    return None


async def _pytest(copy: Path, server: Server, arguments: Sequence[str]) -> tuple[int | None, str]:
    """Its exit code and what it said; None when it takes too long."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-n0", "-x", "-q", "-rfE", "-p", "no:cacheprovider"),
        *(f"--timeout={_TEST_S}", *arguments),
        cwd=copy,
        env=os.environ
        | {
            "PYTHONPATH": str(copy),
            "CASPEN_SYNC_TEST_DSN": server.dsn(),
            "CASPEN_SYNC_MODEL_SEED": "1",
            "CASPEN_SYNC_MODEL_EXAMPLES": "60",
            "CASPEN_SYNC_MODEL_NO_SHRINKING": "1",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), _STAGE_S)
    except TimeoutError:
        return None, ""
    finally:
        # Whatever it has started, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return process.returncode, said.decode(errors="replace")
