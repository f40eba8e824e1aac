"""What the service tells systemd of itself (sd_notify): that it is ready, how it is, that it is alive, that it stops.

A message is a datagram to the socket in $NOTIFY_SOCKET. Telling never holds up the work and never fails it: what cannot
be sent at once is dropped, and without that variable nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Mapping

from worker.privacy import printable, redacted

# systemd takes no message above 4096 bytes, and a character is up to four.
LONGEST_STATUS = 1000

_USEC = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


class Notifier:
    """Speaks to the systemd that started this process, if one did."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = _watchdog_s(environ) if self._address else None
        self._owes_ready = False

    @property
    def listens(self) -> bool:
        """Whether anybody hears what is told."""
        return self._address is not None

    @property
    def watchdog_s(self) -> float | None:
        """Seconds: when `watchdog` is not called for so long, systemd kills this process. None: it does not."""
        return self._watchdog_s

    def ready(self) -> None:
        """The start, or a reload, is over. Without this message systemd would give the service up, so where it cannot
        be told now, `watchdog` tells it."""
        self._owes_ready = not self._send("READY=1")

    def status(self, text: str) -> None:
        """A line for whoever asks `systemctl status`. Secrets are withheld, and what is too long is cut off."""
        self._send(f"STATUS={printable(redacted(text))[:LONGEST_STATUS]}")

    def watchdog(self) -> None:
        """The work goes on."""
        if self._owes_ready:
            self.ready()
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        # The instant is asked for by Type=notify-reload, which tells by it whether this answers its own signal.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> bool:
        if self._address is None:
            return True
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(message.encode(), self._address)
            return True
        return False


def _address(name: str) -> bytes | None:
    """A path, or with @ a name in the abstract namespace. Other kinds, such as a virtual machine's vsock, are not for a
    service."""
    if not name.startswith(("/", "@")):
        return None
    return os.fsencode(name.replace("@", "\0", 1) if name.startswith("@") else name)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """None as well when it is another process that is watched."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if _USEC.fullmatch(usec) else None
