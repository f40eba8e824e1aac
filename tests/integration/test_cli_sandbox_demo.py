"""`caspen-sync sandbox` and `caspen-sync demo`: the two commands that need nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes import command, start
from tests.support.statuspage import Visitor
from tests.support.waiting import eventually
from worker import clock
from worker.caspen import Caspen
from worker.outcome import Refused, Synced

LIMIT_S = 30


def bare() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("CASPEN_SYNC_", "PG"))}


# -- sandbox ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_sandbox_answers_until_told_to_stop(number: signal.Signals, tmp_path: Path) -> None:
    """It prints where it is once it listens, answers as the API does, and ends with 0 on either signal."""
    log = tmp_path / "log.jsonl"
    process = await start("sandbox", "--port", "0", "--token", "given", "--log-file", str(log), env=bare())
    async with asyncio.timeout(LIMIT_S):
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        base_url = line.removeprefix("sandbox at ").strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", base_url)
        async with Caspen(base_url, timeout_s=10) as caspen:
            accepted = await caspen.send(
                caspen.request("app_1", {"note": "x"}), token="given", deadline=clock.now() + 10
            )
            refused = await caspen.send(
                caspen.request("app_1", {"note": "x"}), token="sandbox", deadline=clock.now() + 10
            )
        process.send_signal(number)
        out, err = await process.communicate()
    assert isinstance(accepted.outcome, Synced)
    assert isinstance(refused.outcome, Refused)
    assert (process.returncode, out, err) == (0, b"", b"")
    assert log.read_text(encoding="utf-8").count("\n") == 2


async def test_the_sandbox_stops_in_the_middle_of_a_request() -> None:
    """A slow request does not hold it up."""
    process = await start("sandbox", "--port", "0", "--fault", "slow=1", "--slow", "600", env=bare())
    async with asyncio.timeout(LIMIT_S):
        assert process.stdout is not None
        base_url = (await process.stdout.readline()).decode().removeprefix("sandbox at ").strip()
        async with Caspen(base_url, timeout_s=600) as caspen:
            slow = asyncio.create_task(
                caspen.send(caspen.request("app_1", {"note": None}), token="sandbox", deadline=clock.now() + 600)
            )
            # A second request that is answered (it is refused) shows that the first one is in.
            await caspen.send(caspen.request("app_1", {"note": None}), token="wrong", deadline=clock.now() + 600)
            process.terminate()
            _, err = await process.communicate()
            await slow
    assert (process.returncode, err) == (0, b"")


async def test_a_port_that_is_taken() -> None:
    """64; one line that names the address and the reason."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = await command("sandbox", "--port", str(port), env=bare())
    assert (ended.exit_code, ended.stdout) == (64, "")
    assert ended.stderr.startswith(f"caspen-sync: sandbox: cannot listen on 127.0.0.1:{port}: ")
    assert "in use" in ended.stderr
    assert ended.stderr.count("\n") == 1


async def test_a_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    """64, and the message is about the file, not about the port."""
    path = tmp_path / "no" / "log.jsonl"
    ended = await command("sandbox", "--port", "0", "--log-file", str(path), env=bare())
    assert ended.exit_code == 64
    assert "Traceback" not in ended.stderr
    assert str(path) in ended.stderr
    assert "cannot listen" not in ended.stderr


# -- demo ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for whatever a demo puts down. Its name is short, since a socket's path may not be long."""
    path = Path(tempfile.mkdtemp(prefix="cs-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def left_behind(folder: Path) -> list[str]:
    """Files in the folder, and processes that run out of it."""
    left = [str(path) for path in folder.rglob("*")]
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(psutil.Error):
            if process.info["status"] != psutil.STATUS_ZOMBIE and str(folder) in " ".join(process.cmdline()):
                left.append(f"{process.pid}: {process.cmdline()}")
    return left


async def test_the_demo(folder: Path) -> None:
    """Plain lines when nobody watches, a summary, exit code 0, and nothing is left behind."""
    ended = await command("demo", "--changes", "20", env=bare() | {"TMPDIR": str(folder)})
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
    lines = ended.stdout.splitlines()
    assert lines[0] == "started a Postgres of its own"
    assert any(re.fullmatch(r"20 of 20 changes done, \d+ requests", line) for line in lines)
    counts = re.search(r"^requests +(\d+), by the sandbox's own count (\d+)$", ended.stdout, re.MULTILINE)
    assert counts is not None
    assert counts[1] == counts[2]
    assert "0 answers of 429" in ended.stdout
    assert left_behind(folder) == []


@pytest.mark.long
async def test_the_demo_s_bad_change_is_parked(folder: Path) -> None:
    """It says that one of them is bad on purpose; the summary shows which, and that the others went through."""
    ended = await command("demo", "--changes", "50", env=bare() | {"TMPDIR": str(folder)})
    assert ended.exit_code == 0
    assert "one of them bad on purpose" in ended.stdout
    assert "changes      50: 49 synced, 1 parked" in ended.stdout
    assert re.search(r"^parked +change \d+ of app_\d+: 422 validation failed: room_id$", ended.stdout, re.MULTILINE)


@pytest.mark.long
async def test_the_settings_of_a_real_installation_do_not_reach_the_demo(folder: Path) -> None:
    """Neither its configuration nor its variables, sound or not, get in between."""
    (folder / "config.toml").write_text("nonsense", encoding="utf-8")
    env = bare() | {
        "TMPDIR": str(folder),
        "PGHOST": "nosuch.invalid",
        "CASPEN_SYNC_API__BASE_URL": "http://real.invalid",
    }
    ended = await command("demo", "--changes", "10", env=env, cwd=str(folder))
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert left_behind(folder) == [str(folder / "config.toml")]


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "when"),
    [(signal.SIGTERM, "started a Postgres"), pytest.param(signal.SIGINT, "changes done", marks=pytest.mark.long)],
)
async def test_a_demo_that_is_interrupted_leaves_nothing_behind(
    folder: Path, number: signal.Signals, when: str
) -> None:
    """Whatever it was doing, its Postgres and its folder go with it."""
    process = await start("demo", "--changes", "2000", env=bare() | {"TMPDIR": str(folder)})
    async with asyncio.timeout(LIMIT_S):
        assert process.stdout is not None
        while when not in (line := (await process.stdout.readline()).decode()):
            assert line, "it ended by itself"
        process.send_signal(number)
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.decode().splitlines()[-1] == "stopped; nothing is left behind"
    assert left_behind(folder) == []


@pytest.mark.long
async def test_the_demo_has_a_status_page(folder: Path) -> None:
    """It says where from the start; with --keep it stays, and takes the token that is said in the end."""
    process = await start("demo", "--changes", "10", "--keep", env=bare() | {"TMPDIR": str(folder)})
    lines: list[str] = []
    async with asyncio.timeout(LIMIT_S):
        assert process.stdout is not None
        while not lines or "Ctrl-C ends it" not in lines[-1]:
            lines.append((await process.stdout.readline()).decode())
            assert lines[-1], "it ended by itself"
        said = re.search(r"^status page +http://(\S+)/ \(its token: (\w+)\)$", "".join(lines), re.MULTILINE)
        assert said
        assert f"watch it at http://{said[1]}/, the status page of the service\n" in lines
        visitor = Visitor(said[1])

        async def told() -> bool:
            return "1 change needs a decision; all others have reached Caspen" in (await visitor.get("/")).text

        await eventually(told, what="the page says what there is to decide")
        assert (await visitor.sign_in(said[2])).status == 303
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert left_behind(folder) == []
