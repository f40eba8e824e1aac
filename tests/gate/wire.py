"""What goes over the wire to Postgres: a proxy that counts statements and round trips, and passes them on one by one.

A round trip is what ends with Postgres saying that it is ready for the next: one Sync or one simple query, however many
statements it held. What happens once a connection (its start, preparing, asyncpg's look at types) is counted apart, and
so is what a clock sets off: how often that is depends on how long the machine takes for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Self

from asyncpg import introspection

from tests.support.rawserver import bare_server
from worker.sqlfiles import sql_dir

PREPARING = "preparing"
RESET = "reset"
BY_THE_CLOCK = {"heartbeat", "SELECT 1"}
LIMIT_S = 60.0

_CANCEL = (1234, 5678)
# What ends an answer: to a Sync or a simple query, and to a Flush after a Describe, by which asyncpg prepares.
_READY = b"Z"
_DESCRIBED = b"TnE"
_KNOWN = {
    introspection.INTRO_LOOKUP_TYPES: PREPARING,
    introspection.TYPE_BY_NAME: PREPARING,
}


@cache
def ours() -> dict[str, str]:
    """The names of the statements of sql/queries/ by their texts."""
    return {path.read_text("utf-8"): path.stem for path in (sql_dir() / "queries").glob("*.sql")}


def name_of(text: str) -> str:
    """A statement of sql/queries/ by the name of its file, another one by its first words."""
    if name := ours().get(text) or _KNOWN.get(text):
        return name
    if "set_config('jit'" in text:
        return PREPARING  # around asyncpg's look at types
    words = " ".join(text.replace(";", " ").split())
    return RESET if words.startswith("SELECT pg_advisory_unlock_all()") else words[:40]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over the wire so far, or between two moments."""

    statements: Counter[str]
    round_trips: int
    connections: int

    def __sub__(self, before: Self) -> Traffic:
        return Traffic(
            self.statements - before.statements,
            self.round_trips - before.round_trips,
            self.connections - before.connections,
        )


@dataclass(slots=True, eq=False)
class Round:
    """What a client asks for, and what it is told."""

    connection: Connection
    asked: bytes
    statements: list[str]
    ends_with: bytes
    told: bytearray = field(default_factory=bytearray)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Wire:
    """A proxy in front of a server, and what went through it. Nothing gets through but by `next_answer`."""

    def __init__(self) -> None:
        self.port = 0
        self.notifications = 0
        """How many were passed on to those who listen."""
        self.seen = 0
        """Grows with whatever comes in, from either side."""
        self.asked: list[Round] = []
        self.to_notify: list[tuple[Connection, bytes]] = []
        self._traffic = Traffic(Counter(), 0, 0)

    @property
    def traffic(self) -> Traffic:
        now = self._traffic
        return Traffic(Counter(now.statements), now.round_trips, now.connections)

    def count(self, statements: list[str], *, round_trips: int = 0, connections: int = 0) -> None:
        so_far = self._traffic
        so_far.statements.update(statements)
        self._traffic = Traffic(so_far.statements, so_far.round_trips + round_trips, so_far.connections + connections)

    async def next_answer(self) -> Callable[[], None] | None:
        """What to call to have the client told the next thing: a notification, or the answer to a question, which is
        put now. Of several questions that which comes first by the alphabet: which was read first is chance."""
        if self.to_notify:
            connection, message = self.to_notify.pop(0)
            self.notifications += 1
            return lambda: connection.tell(message)
        if self.asked:
            first = min(self.asked, key=lambda asked: asked.statements[:1])
            self.asked.remove(first)
            told = await first.connection.ask(first)
            return lambda: first.connection.tell(told)
        return None


@contextlib.asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    """A proxy to a server on this port of 127.0.0.1."""
    wire = Wire()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", port)
        connection = Connection(wire, to_server=to_there.write, to_client=writer.write)
        wire.count([], connections=1)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_read(reader, connection.from_client, to_there))
                both.create_task(_read(there, connection.from_server, writer))
        except* OSError:
            pass
        finally:
            connection.ended()
            to_there.transport.abort()

    async with bare_server(serve) as wire.port:
        yield wire


async def _read(reader: asyncio.StreamReader, hear: Callable[[bytes], None], other: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 18):
        hear(data)
    other.close()


class Frames:
    """Cuts a stream into messages, wherever it was cut on its way."""

    def __init__(self, *, typed: bool) -> None:
        """`typed`: whether its first message has a type, as all others do."""
        self._typed = typed
        self._rest = b""

    def of(self, data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Of each message its type, its body, and all of it."""
        self._rest += data
        while len(self._rest) >= (start := int(self._typed)) + 4:
            ends_at = start + struct.unpack_from("!I", self._rest, start)[0]
            if len(self._rest) < ends_at:
                return
            message, self._rest = self._rest[:ends_at], self._rest[ends_at:]
            self._typed = True
            yield message[:start], message[start + 4 :], message


class Connection:
    """One connection through the proxy."""

    def __init__(self, wire: Wire, *, to_server: Callable[[bytes], None], to_client: Callable[[bytes], None]) -> None:
        self._wire = wire
        self._to_server = to_server
        self.tell = to_client
        self._client_frames, self._server_frames = Frames(typed=False), Frames(typed=True)
        self._asking = b""
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._executed: list[str] = []
        self._round: Round | None = None
        self._by_the_clock = False

    def from_client(self, data: bytes) -> None:
        self._wire.seen += len(data)
        for kind, body, message in self._client_frames.of(data):
            self._asking += message
            self._name(kind, body)
            if kind in (b"Q", b"S"):
                self._ends(_READY)
            elif kind == b"H":
                self._ends(_DESCRIBED)
            elif kind == b"" and struct.unpack_from("!HH", body) != _CANCEL:
                assert struct.unpack_from("!H", body) == (3,), "this proxy knows no TLS: sslmode=disable"
                self._ends(_READY)
            elif kind in (b"", b"X"):  # which are not answered
                self._to_server(self._asking)
                self._asking = b""

    def from_server(self, data: bytes) -> None:
        self._wire.seen += len(data)
        for kind, _, message in self._server_frames.of(data):
            if kind == b"A":
                self._wire.to_notify.append((self, message))
            elif self._round is None:
                self.tell(message)  # that it ends the connection
            else:
                self._round.told += message
                if kind in self._round.ends_with:
                    self._round.over.set()

    async def ask(self, asked: Round) -> bytes:
        """Asks, and returns the whole answer."""
        self._round = asked
        self._to_server(asked.asked)
        async with asyncio.timeout(LIMIT_S):
            await asked.over.wait()
        self._round = None
        self._count(asked.statements)
        return bytes(asked.told)

    def ended(self) -> None:
        """Nobody is there any more to be asked, or told."""
        if self._round:
            self._round.over.set()
        self._wire.asked = [asked for asked in self._wire.asked if asked.connection is not self]

    def _name(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            statement, text = body.split(b"\0", 2)[:2]
            self._prepared[statement] = name_of(text.decode())
        elif kind == b"B":
            portal, statement = body.split(b"\0", 2)[:2]
            self._portals[portal] = self._prepared[statement]
        elif kind == b"E":
            self._executed.append(self._portals[body.split(b"\0", 1)[0]])
        elif kind == b"Q":
            self._executed.append(name_of(body.rstrip(b"\0").decode()))

    def _ends(self, ends_with: bytes) -> None:
        self._wire.asked.append(Round(self, self._asking, self._executed, ends_with))
        self._asking, self._executed = b"", []

    def _count(self, statements: list[str]) -> None:
        counted = [name for name in statements if name not in BY_THE_CLOCK and name != PREPARING]
        # When the pool takes the connection back after a heartbeat, it resets it by the same clock.
        if self._by_the_clock and counted == [RESET]:
            counted = []
        self._by_the_clock = bool(statements) and not counted
        if counted:
            self._wire.count(counted, round_trips=1)
