"""A real systemd, for tests of units: PID 1 of namespaces of its own, with a journald, and nothing else in it.

It sees the machine's files and network; /run, /dev and the logs are its own, and it takes no units but a test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tests.support import canary
from tests.support.waiting import eventually

SYSTEMD = Path("/lib/systemd/systemd")
# What a system cannot do without; each unit of a test depends on some of them by itself.
_UNITS = (
    *("sysinit.target", "basic.target", "shutdown.target", "multi-user.target", "network-online.target"),
    *("timers.target", "sockets.target", "paths.target", "slices.target"),
    *("systemd-journald.service", "systemd-journald.socket"),
)
# What systemd has no reason to keep in mind, it forgets once it has ended, and how: being named here is a reason.
_DEFAULT = """\
[Unit]
Requires=basic.target
Wants=systemd-journald.service
After=caspen-sync.service caspen-sync-once.service
"""

# Runs in a mount namespace of its own, and there makes itself a control group, which systemd then is the root of.
_ENTER = """
mount --make-rprivate /
mount -t cgroup2 cgroup2 {home}/cgroups
mkdir {home}/cgroups/{group}
echo $$ > {home}/cgroups/{group}/cgroup.procs
exec unshare --pid --mount --cgroup --uts --ipc --fork --kill-child sh -euc {boot}
"""
_BOOT = """
# systemd hands credentials on through mounts, which reach its other children where they are shared.
mount --make-rshared /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/log
mount --bind {home}/machine-id /etc/machine-id
mount -t tmpfs -o mode=755 tmpfs {home}/dev
for name in null zero full random urandom tty; do
    touch {home}/dev/$name
    mount --bind /dev/$name {home}/dev/$name
done
mkdir {home}/dev/shm
ln -s pts/ptmx {home}/dev/ptmx
mount --rbind {home}/dev /dev
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH={home}/units \
    SYSTEMD_LOG_TARGET=journal-or-kmsg {systemd} --system --show-status=false
"""
_LEAVE = """
mount -t cgroup2 cgroup2 {home}/leave
test -d {home}/leave/{group} || exit 0
find {home}/leave/{group} -depth -type d -exec rmdir {{}} +
"""


class Systemd:
    """One that runs."""

    def __init__(self, pid: int, units: Path) -> None:
        """`pid`: of its PID 1, as seen from here. `units`: the folder that it takes units from."""
        self._pid = pid
        self._units = units

    async def install(self, name: str, text: str, **overridden: str) -> None:
        """A unit, with these settings of [Service] otherwise than it says."""
        (self._units / name).write_text(text, encoding="utf-8")
        if overridden:
            folder = self._units / f"{name}.d"
            folder.mkdir(exist_ok=True)
            lines = ["[Service]", *(f"{key}={value}" for key, value in overridden.items())]
            (folder / "test.conf").write_text("\n".join(lines), encoding="utf-8")
        await self.systemctl("daemon-reload")

    async def systemctl(self, *args: str, check: bool = True) -> str:
        """What it prints."""
        return await self.run("systemctl", *args, check=check)

    async def show(self, unit: str, *properties: str) -> list[str]:
        """The values of these properties of a unit, in this order."""
        lines = (await self.systemctl("show", unit, *(f"--property={name}" for name in properties))).splitlines()
        values = dict(line.split("=", 1) for line in lines)
        return [values[name] for name in properties]

    async def comes_to(self, unit: str, *, limit_s: float = 30, **wanted: str) -> None:
        """Waits until these properties of a unit have these values."""

        async def so() -> bool:
            return await self.show(unit, *wanted) == list(wanted.values())

        try:
            await eventually(so, limit_s=limit_s, every_s=0.1)
        except AssertionError:
            raise AssertionError(f"{unit}: {await self.show(unit, *wanted)}\n{await self.journal(unit)}") from None

    async def journal(self, unit: str, *options: str) -> str:
        """What the unit said, and what systemd says of it."""
        said = await self.run("journalctl", "--no-pager", "--output=cat", *options, f"--unit={unit}")
        canary.watch(said, where=f"the journal of {unit}")
        return said

    async def kill(self, unit: str, number: signal.Signals) -> None:
        """A signal to its main process."""
        await self.systemctl("kill", "--kill-whom=main", f"--signal={number.name}", unit)

    async def run(self, *command: str, check: bool = True) -> str:
        """Runs a command where its PID 1 is."""
        entered = ["nsenter", f"--target={self._pid}", "--pid", "--mount", "--cgroup", "--uts", "--ipc", "--", *command]
        process = await asyncio.create_subprocess_exec(
            *entered,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0 or not check, f"{shlex.join(command)}: {err.decode()}"
        return out.decode()


@contextlib.asynccontextmanager
async def real_systemd() -> AsyncIterator[Systemd]:
    """Boots one, and ends it with everything that it started."""
    with _home() as home:
        names = {"home": str(home), "group": home.name, "systemd": str(SYSTEMD)}
        script = _ENTER.format(**names, boot=shlex.quote(_BOOT.format(**names)))
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--mount", "sh", "-euc", script),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            systemd = Systemd(await _booted(process), home / "units")
            await eventually(lambda: systemd.systemctl("is-active", "systemd-journald", check=False), what="a journal")
            try:
                yield systemd
            finally:  # so that folders of the services in /tmp are removed
                await systemd.systemctl("stop", "caspen-sync*", check=False)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # and with it, by --kill-child, PID 1, and with that all others
            await process.communicate()
            await eventually(lambda: _left(_LEAVE.format(**names)), what="the control group is gone")


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    """A folder with what it takes to boot."""
    assert SYSTEMD.exists(), "this test needs systemd: apt-get install systemd"
    assert os.geteuid() == 0, "this test starts a systemd of its own, in namespaces, and has to run as root"
    with tempfile.TemporaryDirectory(prefix="caspen-sync-test-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        for name in ("units", "cgroups", "dev", "leave"):
            (home / name).mkdir()
        for name in _UNITS:
            shutil.copy(SYSTEMD.parent / "system" / name, home / "units")
        (home / "units" / "default.target").write_text(_DEFAULT, encoding="utf-8")
        (home / "machine-id").touch()
        yield home


async def _booted(process: asyncio.subprocess.Process) -> int:
    """PID 1, as seen from here, once it is systemd and answers."""

    async def answers() -> int:
        if process.returncode is not None:
            _, err = await process.communicate()
            raise AssertionError(f"systemd cannot be started here: {err.decode()}")
        for pid in _children(process.pid):
            state = await Systemd(pid, Path()).systemctl("is-system-running", check=False)
            if state.strip() in ("running", "degraded"):
                return pid
        return 0

    pid: int = await eventually(answers, what="systemd is up")
    return pid


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        return [int(child) for child in children if Path(f"/proc/{child}/comm").read_text("ascii") == "systemd\n"]
    return []


async def _left(script: str) -> bool:
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-euc", script), stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait() == 0
