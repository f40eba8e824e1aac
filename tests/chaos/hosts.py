"""Hosts of the workers' own: network namespaces, each with a cable to this one that can be pulled. What is on its way
then is in the kernel's hands, as between real hosts: it is sent again, or given up by TCP's own timers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# A part of the addresses that are set aside for measuring networks (RFC 2544): nobody's.
_NETWORK = "198.18.77"


@dataclass(frozen=True, slots=True)
class Host:
    """One namespace."""

    name: str
    here: str
    """The address of this end of its cable, by which it reaches us."""
    there: str

    @property
    def prefix(self) -> Sequence[str]:
        """What runs a command there."""
        return ("ip", "netns", "exec", self.name)

    @property
    def _cable(self) -> str:
        return f"{self.name}c"

    def pull(self) -> None:
        """Nothing gets through from now on, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def plug(self) -> None:
        _ip("link", "set", self._cable, "up")

    def make(self) -> None:
        inner = f"{self.name}n"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", inner, "netns", self.name)
        _ip("addr", "add", f"{self.here}/30", "dev", self._cable)
        self.plug()
        for command in (("addr", "add", f"{self.there}/30", "dev", inner), ("link", "set", inner, "up")):
            _ip("-n", self.name, *command)
        _ip("-n", self.name, "link", "set", "lo", "up")

    def unmake(self) -> None:
        for command in (("link", "del", self._cable), ("netns", "del", self.name)):
            subprocess.run(["ip", *command], check=False, capture_output=True)


def permitted() -> bool:
    """Whether namespaces can be made here."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    probe = f"caspenp{os.getpid() % 10_000}"
    made = subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True).returncode == 0
    if made:
        _ip("netns", "del", probe)
    return made


@contextlib.contextmanager
def hosts(count: int) -> Iterator[Sequence[Host]]:
    """So many of them, which are gone at the end."""
    # The name of an interface has 15 characters at most; two test runs may meet on one machine.
    mark = os.getpid() % 10_000
    first = mark % 15 * 16
    found = [
        Host(f"caspen{mark}{n}", f"{_NETWORK}.{first + 4 * n + 1}", f"{_NETWORK}.{first + 4 * n + 2}")
        for n in range(count)
    ]
    try:
        for host in found:
            host.make()
        yield found
    finally:
        for host in found:
            host.unmake()


def _ip(*args: str) -> None:
    done = subprocess.run(["ip", *args], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(args)}: {done.stderr}"
