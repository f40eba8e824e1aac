"""The socket on which systemd hears how a service is, in a test's own hands."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support import canary
from tests.support.waiting import eventually

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True, slots=True)
class Message:
    """One datagram: when it was read (time.monotonic), which process sent it, and its lines."""

    at: float
    pid: int
    text: str

    def has(self, beginning: str) -> bool:
        """Whether one of its lines begins so."""
        return any(line.startswith(beginning) for line in self.text.split("\n"))


class NotifySocket:
    """What was heard on it so far, oldest first."""

    def __init__(self, name: str) -> None:
        """`name`: a path, or with @ a name in the abstract namespace."""
        self.name = name
        self.messages: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)

    def environment(self, *, watchdog_s: float | None = None) -> dict[str, str]:
        """What systemd gives to a service besides. `watchdog_s`: WatchdogSec of the unit."""
        watchdog = {} if watchdog_s is None else {"WATCHDOG_USEC": str(round(watchdog_s * 1e6))}
        return {"NOTIFY_SOCKET": self.name, **watchdog}

    def heard(self, beginning: str, *, since: float = 0.0) -> list[Message]:
        """The messages with a line that begins so, read after the instant `since` of time.monotonic."""
        return [message for message in self.messages if message.at > since and message.has(beginning)]

    async def wait_for(self, beginning: str, *, since: float = 0.0, limit_s: float = 20.0) -> Message:
        """The first of them; fails when none comes in `limit_s` seconds."""
        try:
            heard: list[Message] = await eventually(lambda: self.heard(beginning, since=since), limit_s=limit_s)
        except AssertionError:
            raise AssertionError(f"no {beginning} within {limit_s} s; heard: {self.messages}") from None
        return heard[0]

    def read(self) -> None:
        """Takes in what has come. Within `notify_socket` that happens by itself."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(65_536, socket.CMSG_SPACE(_CREDENTIALS.size))
                pid = _CREDENTIALS.unpack(ancillary[0][2])[0]
                self.messages.append(Message(time.monotonic(), pid, data.decode()))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


@contextlib.asynccontextmanager
async def notify_socket() -> AsyncIterator[NotifySocket]:
    """A socket in a folder of its own, read for as long as the block lasts."""
    with TemporaryDirectory(prefix="caspen-sync-test-") as folder:  # a short path: it has to fit into 108 bytes
        heard = NotifySocket(str(Path(folder) / "notify"))
        loop = asyncio.get_running_loop()
        loop.add_reader(heard, heard.read)
        try:
            yield heard
        finally:
            loop.remove_reader(heard)
            heard.close()
            for message in heard.messages:
                canary.watch(message.text, where=f"a message of process {message.pid} to systemd")
