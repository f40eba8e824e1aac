"""A small disk for a server, that can be filled."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

SIZE_MB = 400


class Disk:
    """Where a server's files are. `small`: whether it is a disk of its own; filling another one would hurt others."""

    def __init__(self, folder: Path, *, small: bool) -> None:
        self.folder = folder
        self.small = small
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Takes all that is left of it, to the last page."""
        with self._filler.open("wb", buffering=0) as file:
            for chunk in (b"\0" * 2**20, b"\0" * 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(chunk)

    def clear(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk() -> Iterator[Disk]:
    """A disk of SIZE_MB in memory, where mounting is permitted; else a folder that is never filled."""
    folder = Path(tempfile.mkdtemp(prefix="caspen-sync-disk-"))
    folder.chmod(0o755)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=755", "caspen-sync-test", str(folder)],
        check=False, capture_output=True,
    )  # fmt: skip
    small = mount.returncode == 0
    try:
        yield Disk(folder, small=small)
    finally:
        if small:
            subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
