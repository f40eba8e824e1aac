"""A PgBouncer of the tests' own: transaction mode, and so few server connections that any transaction may meet another.

With CASPEN_SYNC_TEST_PGBOUNCER=1 the whole suite's workers reach the test server through one: their processes, and the
stores in the tests' own process. What a test itself writes and looks up goes past it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from tests.support.rawserver import closed_port

SETTINGS = {
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "",
    # Anybody whom the server knows.
    "auth_type": "trust",
    "auth_query": "SELECT usename, ''::text FROM pg_user WHERE usename = $1",
    "pool_mode": "transaction",
    # Fewer than one worker asks for, each in turn.
    "default_pool_size": "3",
    "server_round_robin": "1",
    "server_login_retry": "1",
    "max_client_conn": "500",
}


class PgBouncer:
    """One PgBouncer in front of a server, on the same port whenever it runs."""

    def __init__(self, folder: Path, server_dsn: str, settings: Mapping[str, str]) -> None:
        """`settings`: of pgbouncer.ini, beside the tests' own or instead of them."""
        self.port = closed_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        parts = urlsplit(server_dsn)
        host = parts.hostname or parse_qs(parts.query)["host"][0]
        admin = unquote(parts.username or "postgres")
        places = {
            "listen_port": str(self.port),
            "logfile": f"{folder}/log",
            "pidfile": f"{folder}/pid",
            "auth_file": f"{folder}/users",
        }
        config = f"[databases]\n* = host={host} port={parts.port or 5432} auth_user={admin}\n[pgbouncer]\n"
        config += "".join(f"{name} = {value}\n" for name, value in (SETTINGS | places | settings).items())
        (folder / "pgbouncer.ini").write_text(config, encoding="utf-8")
        (folder / "users").write_text(f'"{admin}" "{unquote(parts.password or "")}"\n', encoding="utf-8")
        # It refuses to run as root. Whoever owns a socket's folder may enter it; to a port, anybody may connect.
        self._runs_as = (Path(host).owner() if host.startswith("/") else "nobody") if os.geteuid() == 0 else None
        if self._runs_as:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, self._runs_as)

    def dsn(self, direct: str) -> str:
        """The way through here for the user and the database of a DSN of the server."""
        parts = urlsplit(direct)
        user = parts.netloc.rpartition("@")[0] or "postgres"
        return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self.port}", query=""))

    def start(self) -> None:
        """Returns once it listens."""
        command, nothing = [_program(), "-q", str(self._folder / "pgbouncer.ini")], subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, user=self._runs_as, cwd="/", stdin=nothing, stdout=nothing, stderr=nothing
        )
        ends_at = time.monotonic() + 20
        while not (self._folder / "pid").exists():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < ends_at, self.log()
            time.sleep(0.01)

    def pause(self) -> None:
        """Transactions finish, and whoever wants to begin one waits."""
        self._signal(signal.SIGUSR1)

    def resume(self) -> None:
        self._signal(signal.SIGUSR2)

    def stop(self) -> None:
        """At once, whatever its clients are doing."""
        self._signal(signal.SIGTERM)
        assert self._process
        self._process.wait(20)
        self._process = None

    def close(self) -> None:
        if self._process:
            self.stop()

    def _signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def log(self) -> str:
        """What it has to say."""
        log = self._folder / "log"
        return log.read_text("utf-8")[-3000:] if log.exists() else "pgbouncer wrote no log"


@contextlib.contextmanager
def pgbouncer(server_dsn: str, **settings: str) -> Iterator[PgBouncer]:
    """A running PgBouncer in front of the server."""
    folder = Path(tempfile.mkdtemp(prefix="caspen-sync-test-"))
    try:
        bouncer = PgBouncer(folder, server_dsn, settings)
        bouncer.start()
        try:
            yield bouncer
        finally:
            bouncer.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_between: dict[str, PgBouncer] = {}


@contextlib.contextmanager
def between(server_dsn: str) -> Iterator[None]:
    """Puts one between the workers of all tests and this server, if the environment says so."""
    if not os.environ.get("CASPEN_SYNC_TEST_PGBOUNCER"):
        yield
        return
    with pgbouncer(server_dsn) as bouncer:
        _between[_server(server_dsn)] = bouncer
        yield
    _between.clear()


def way_through(dsn: str) -> str | None:
    """The DSN that workers shall use instead of this one; None: this one."""
    bouncer = _between.get(_server(dsn))
    return bouncer.dsn(dsn) if bouncer else None


def _server(dsn: str) -> str:
    parts = urlsplit(dsn)
    return parts.netloc.rpartition("@")[2] + parts.query


def _program() -> str:
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert found, "no pgbouncer here, which these tests need: apt-get install pgbouncer"
    return found
