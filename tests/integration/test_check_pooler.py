"""`check` behind a PgBouncer in transaction mode: it works there, and sees whether the setting fits."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.checking import holds, looked, verdicts
from tests.support.database import Database
from tests.support.rawserver import closed_port
from tests.support.servers import DATABASE, RUNS_AS, Server
from tests.support.waiting import eventually
from worker.check import Verdict
from worker.check.database import LOOKS
from worker.config import DatabaseSettings
from worker.database import connect_options


@contextlib.contextmanager
def pgbouncer(server: Server) -> Iterator[tuple[str, Path]]:
    """A PgBouncer before the server: the DSN through it, and the file that is there once it listens. It lets every
    startup parameter through and drops it, as one that was set up by trial and error."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "this test needs PgBouncer: apt-get install pgbouncer"
    folder = Path(tempfile.mkdtemp(prefix="caspen-sync-test-"))
    port = closed_port()
    dropped = ",".join(connect_options(DatabaseSettings())["server_settings"])
    (folder / "ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n"
        f"ignore_startup_parameters = {dropped}\npidfile = {folder}/pid\nlogfile = {folder}/log\n"
    )
    if RUNS_AS:
        for path in (folder, folder / "ini"):
            shutil.chown(path, RUNS_AS)
    process = subprocess.Popen([program, "-q", str(folder / "ini")], user=RUNS_AS, cwd="/", stderr=subprocess.DEVNULL)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/{DATABASE}", folder / "pid"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


async def test_behind_a_pooler(server: Server) -> None:
    """With database.pgbouncer all looks are as without it, but for the connections, which are the pooler's; without
    it, that is what is wrong."""
    with pgbouncer(server) as (dsn, listens):
        await eventually(listens.exists, what="PgBouncer listens")
        rightly = await looked(dsn, database={"dsn": dsn, "pgbouncer": True})
        wrongly = await looked(dsn, database={"dsn": dsn, "pgbouncer": False})
    expected = dict.fromkeys(LOOKS, "ok") | {"connections": "skipped", "durability": "warning"}
    assert verdicts(rightly) == expected  # the tests' server runs without fsync
    holds(rightly["pooler"], Verdict.OK, "PgBouncer, as database.pgbouncer says")
    holds(rightly["notify"], Verdict.OK, "not used: changes are found by polling, every 5 s")
    holds(wrongly["pooler"], Verdict.FAILED, "something like PgBouncer stands between", "database.pgbouncer = true")
    assert wrongly["pooler"].exit_code == 78


async def test_a_pooler_that_is_not_there(database: Database) -> None:
    """The setting without a pooler costs LISTEN."""
    found = await looked(database.dsn, database={"dsn": database.dsn, "pgbouncer": True})
    holds(found["pooler"], Verdict.WARNING, "found by polling only, every 5 s", "database.pgbouncer = false")
