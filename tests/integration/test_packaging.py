"""Every way in which the package is installed ends in a command that finds its SQL."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from worker import __version__
from worker.migrate import known_migrations, require_current_schema

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Built:
    """A copy of the checkout and what was built of it."""

    source: Path
    wheel: Path
    sdist: Path


async def run(*words: str | Path, cwd: Path) -> str:
    """Runs a program that has to succeed, outside of this process's environment; returns what it printed."""
    ours = ("CASPEN_SYNC_", "PYTHON", "VIRTUAL_ENV")
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if not name.startswith(ours)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{words}: {out.decode()}{err.decode()}"
    return out.decode()


async def copy_checkout(target: Path) -> None:
    """What git knows, or would with the next commit; nothing that was built, and nothing that is ignored."""
    listed = await run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=CHECKOUT)
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target / name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built once: the wheel and the source distribution, each out of the copy."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")

    async def build() -> None:
        await copy_checkout(source)
        await run(sys.executable, "-m", "build", "--sdist", "--wheel", "--outdir", dist, source, cwd=dist)

    asyncio.run(build())
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return Built(source=source, wheel=wheel, sdist=sdist)


def test_the_wheel_holds_the_package_and_its_sql(built: Built) -> None:
    """All SQL, what the status page is made of, what Grafana is given and the typing marker are inside; tests and CI
    are not, and no second top-level package."""
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    sql = {f"worker/{path.relative_to(CHECKOUT).as_posix()}" for path in (CHECKOUT / "sql").rglob("*.sql")}
    assert {name for name in names if name.endswith(".sql")} == sql
    web = CHECKOUT / "worker" / "web"
    page = {
        path.relative_to(CHECKOUT).as_posix() for part in ("templates", "static") for path in (web / part).iterdir()
    }
    assert page > {"worker/web/templates/base.html", "worker/web/static/page.js"}
    assert page <= names
    assert {"worker/py.typed", "worker/grafana/dashboard.json", "worker/grafana/alerts.yml"} <= names
    assert {name.split("/")[0] for name in names} == {"worker", f"caspen_sync-{__version__}.dist-info"}


def test_the_sdist_holds_what_it_takes_to_test(built: Built) -> None:
    """Sources, SQL, tests and documents are in the source distribution."""
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in ("pyproject.toml", "README.md", "LICENSE", "sql/roles.sql", "worker/store.py", "tests/conftest.py"):
        assert wanted in names


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
async def test_an_installed_command_finds_its_sql(built: Built, kind: str, empty_database: str, tmp_path: Path) -> None:
    """In a fresh venv, called from a folder that has nothing to do with it: the version, what Grafana is given, and a
    schema that migrates."""
    venv, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    await run(sys.executable, "-m", "venv", venv, cwd=elsewhere)
    what: dict[str, list[str | Path]] = {
        "wheel": [built.wheel],
        "sdist": [built.sdist],
        "editable": ["-e", built.source],
    }
    await run(venv / "bin" / "pip", "install", "-q", *what[kind], cwd=elsewhere)
    command = venv / "bin" / "caspen-sync"
    assert await run(command, "--version", cwd=elsewhere) == f"caspen-sync {__version__}\n"
    for kind_of_file, file in (("dashboard", "dashboard.json"), ("alerts", "alerts.yml")):
        text = (CHECKOUT / "worker" / "grafana" / file).read_text(encoding="utf-8")
        assert await run(command, "grafana", kind_of_file, cwd=elsewhere) == text
    told = await run(command, "migrate", "--dsn", empty_database, cwd=elsewhere)
    assert told.count("applied ") == len(known_migrations())
    again = await run(venv / "bin" / "python", "-m", "worker", "migrate", "--dsn", empty_database, cwd=elsewhere)
    assert again == "the schema is up to date\n"
    conn = await asyncpg.connect(empty_database)
    await require_current_schema(conn)
    await conn.close()
