"""The notify protocol, over real datagram sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.systemd import NotifySocket, notify_socket
from worker import privacy
from worker.systemd import LONGEST_STATUS, Notifier

OURS, ANOTHERS = "this process", "the next one"


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[NotifySocket]:
    """A socket that is read when the test says so."""
    heard = NotifySocket(str(tmp_path / "n"))
    yield heard
    heard.close()


def texts(heard: NotifySocket) -> list[str]:
    """What has come so far."""
    heard.read()
    return [message.text for message in heard.messages]


def test_each_message(heard: NotifySocket) -> None:
    """Each is the datagram that sd_notify(3) names, and comes from this process."""
    notifier = Notifier(heard.environment())
    notifier.ready()
    notifier.status("12 pending, oldest 3 s")
    notifier.watchdog()
    notifier.stopping()
    assert texts(heard) == ["READY=1", "STATUS=12 pending, oldest 3 s", "WATCHDOG=1", "STOPPING=1"]
    assert {message.pid for message in heard.messages} == {os.getpid()}


def test_a_reload_tells_when_it_began(heard: NotifySocket) -> None:
    """In microseconds of the monotonic clock, in the same datagram."""
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    Notifier(heard.environment()).reloading()
    reloading, _, instant = texts(heard)[0].partition("\nMONOTONIC_USEC=")
    assert reloading == "RELOADING=1"
    assert before - 0.001 <= int(instant) / 1e6 <= time.clock_gettime(time.CLOCK_MONOTONIC)


def test_an_abstract_socket() -> None:
    """A name that begins with @ stands in no folder."""
    heard = NotifySocket(f"@caspen-sync-test-{os.getpid()}")
    try:
        Notifier(heard.environment()).ready()
        assert texts(heard) == ["READY=1"]
    finally:
        heard.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_systemd(environ: Mapping[str, str]) -> None:
    """Nothing is sent, nothing is watched, and nothing fails."""
    notifier = Notifier({**environ, "WATCHDOG_USEC": "1000000"})
    notifier.ready()
    notifier.watchdog()
    assert notifier.watchdog_s is None


def test_a_socket_that_is_gone(tmp_path: Path, heard: NotifySocket) -> None:
    """Never there, no socket, with nobody behind it, or with a name that no socket can have: nobody is told, and
    nothing fails."""
    (tmp_path / "file").touch()
    heard.close()
    for name in (heard.name, str(tmp_path / "missing"), str(tmp_path / "file"), "/" + "x" * 200, "/a\0b"):
        Notifier({"NOTIFY_SOCKET": name}).ready()


def test_a_socket_that_nobody_reads(heard: NotifySocket) -> None:
    """What does not fit is dropped, at once; when somebody reads again, the next message arrives."""
    notifier = Notifier(heard.environment())
    _fill(heard.name)
    started_at = time.monotonic()
    notifier.status("dropped")
    assert time.monotonic() - started_at < 10  # where sending waits, it waits for ever
    assert "STATUS=dropped" not in texts(heard)
    notifier.ready()
    assert texts(heard)[-1] == "READY=1"


def test_ready_is_told_again(heard: NotifySocket) -> None:
    """Without it systemd gives a service up: where it found no room, the next message that all is well brings it."""
    notifier = Notifier(heard.environment())
    _fill(heard.name)
    notifier.ready()
    assert "READY=1" not in texts(heard)
    notifier.watchdog()
    notifier.watchdog()
    assert texts(heard)[-3:] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]


def _fill(name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                channel.sendto(b"X=1", name)


def test_a_status_is_one_line(heard: NotifySocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in it, it sets nothing but the status, fits into what systemd takes, and tells no secret."""
    monkeypatch.setattr(privacy, "_secrets", {"caspen-live-5b1d77"})
    notifier = Notifier(heard.environment())
    notifier.status("default\nMAINPID=1 refuses caspen-live-5b1d77 \ud800")
    notifier.status("\N{SNOWMAN}" * 5000)
    first, second = texts(heard)
    assert first == "STATUS=default\N{REPLACEMENT CHARACTER}MAINPID=1 refuses [withheld] \N{REPLACEMENT CHARACTER}"
    assert second == "STATUS=" + "\N{SNOWMAN}" * LONGEST_STATUS
    assert len(("STATUS=" + "\U0001f600" * LONGEST_STATUS).encode()) <= 4096


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("60000000", None, 60.0),
        ("1500000", OURS, 1.5),
        ("60000000", ANOTHERS, None),
        ("60000000", "", None),
        (None, OURS, None),
        ("0", None, None),
        ("", None, None),
        ("-5", None, None),
        ("soon", None, None),
        ("²", None, None),
        ("9" * 5000, None, None),
    ],
)
def test_the_watchdog(heard: NotifySocket, usec: str | None, pid: str | None, seconds: float | None) -> None:
    """Its time is that of the unit; None when there is none, none that makes sense, or another process is meant."""
    pids: dict[str | None, int | str] = {OURS: os.getpid(), ANOTHERS: os.getpid() + 1}
    watchdog = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": pids.get(pid, pid)}
    environ = heard.environment() | {name: str(value) for name, value in watchdog.items() if value is not None}
    assert Notifier(environ).watchdog_s == seconds


async def test_what_tests_wait_for() -> None:
    """The helper hands out the first message that fits, after an instant, and says what came instead."""
    async with notify_socket() as heard:
        notifier = Notifier(heard.environment(watchdog_s=2.5))
        assert notifier.watchdog_s == 2.5
        notifier.status("first")
        first = await heard.wait_for("STATUS=")
        notifier.status("second")
        assert (await heard.wait_for("STATUS=", since=first.at)).text == "STATUS=second"
        with pytest.raises(AssertionError, match=r"no READY=1 .*STATUS=second"):
            await heard.wait_for("READY=1", limit_s=0.05)
