"""`caspen-sync unit` as an operator uses it, and as systemd's own tools judge what it prints."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.support.processes import Ended, command
from tests.support.units import analyze, configured, unit, without_settings

# Many commands, each a process: together they take most of a minute.
pytestmark = pytest.mark.long

CHECKOUT = Path(__file__).parents[2]
FILES = {
    "caspen-sync.service": ("service",),
    "caspen-sync-once.service": ("service", "--once"),
    "caspen-sync-once.timer": ("timer",),
}


async def elsewhere(*args: str, folder: Path) -> Ended:
    """Runs a command of this checkout from another folder."""
    return await command(*args, env=without_settings() | {"PYTHONPATH": str(CHECKOUT)}, cwd=str(folder))


async def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """The units are saved under the names that they begin with, and verified together, with the command that they
    start."""
    config = str(configured(tmp_path, "postgresql:///clinic"))
    saved = []
    for name, args in FILES.items():
        ended = await unit(*args, *(() if args == ("timer",) else ("--config", config)))
        assert ended.stdout.startswith(f"# Save as /etc/systemd/system/{name}")
        (tmp_path / name).write_text(ended.stdout, encoding="utf-8")
        saved.append(str(tmp_path / name))
    assert analyze("verify", "--man=no", *saved) == ""


@pytest.mark.parametrize("args", [("service",), ("service", "--once")])
async def test_they_are_hardened(args: tuple[str, ...], tmp_path: Path) -> None:
    """systemd-analyze security finds an exposure of 1.5 at most, of 10."""
    path = tmp_path / "caspen-sync.service"
    path.write_text((await unit(*args)).stdout, encoding="utf-8")
    said = analyze("security", "--offline=true", "--threshold=15", str(path))
    found = re.search(r"Overall exposure level for .*: ([0-9.]+) ", said)
    assert found
    assert float(found[1]) <= 1.5


async def test_without_a_configuration(tmp_path: Path) -> None:
    """The usual paths are printed, which is said on stderr; so is that the token is not there yet."""
    ended = await elsewhere("unit", "service", folder=tmp_path)
    assert ended.exit_code == 0
    assert "LoadCredential=config.toml:/etc/caspen-sync/config.toml\n" in ended.stdout
    assert "LoadCredential=token.default:/etc/caspen-sync/token\n" in ended.stdout
    assert ended.stderr.startswith("caspen-sync: no configuration is found; what is printed expects /etc/caspen-sync")
    assert "/etc/caspen-sync/token is not there yet" in ended.stderr


async def test_a_sound_configuration_is_nothing_to_talk_about(tmp_path: Path) -> None:
    """Nothing on stderr; the file in the working folder is found, and its path is absolute."""
    configured(tmp_path, "postgresql:///clinic")
    for kind in ("service", "cron"):
        ended = await elsewhere("unit", kind, folder=tmp_path)
        # Where the tests themselves are installed is not this test's business.
        remarks = [line for line in ended.stderr.splitlines() if "may not enter" not in line]
        assert remarks == []
        assert f"{tmp_path}/config.toml" in ended.stdout
        named = await elsewhere("unit", kind, "--config", f"../{tmp_path.name}/config.toml", folder=tmp_path)
        assert named.stdout == ended.stdout


@pytest.mark.parametrize(
    ("args", "exit_code", "beginning"), [("unit service", 0, "# Save as"), ("run --config /nowhere", 78, "")]
)
async def test_without_stderr(args: str, exit_code: int, beginning: str, tmp_path: Path) -> None:
    """What is to be said on a stderr that the caller closed is said nowhere: it does not end up in the unit."""
    process = await asyncio.create_subprocess_shell(
        f"exec {sys.executable} -m worker {args} 2>&-",
        env=without_settings() | {"PYTHONPATH": str(CHECKOUT)},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == exit_code
    assert out.decode().startswith(beginning)
    assert b"caspen-sync: " not in out.replace(b"Description=caspen-sync: ", b"")


async def test_what_the_environment_says_is_not_in_the_unit(tmp_path: Path) -> None:
    """A setting there is named, with where to write it, and never its value; it changes nothing of the unit."""
    config = configured(tmp_path, "postgresql:///clinic")
    env = without_settings() | {
        "CASPEN_SYNC_API__TIMEOUT_S": "77",
        "CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN": "tok-5f0e1c",
    }
    env["CASPEN_SYNC_CONFIG"] = str(config)
    ended = await command("unit", "service", env=env)
    assert ended.stdout == (await unit("service", "--config", str(config))).stdout
    assert "CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN, CASPEN_SYNC_API__TIMEOUT_S; write" in ended.stderr
    assert "tok-5f0e1c" not in ended.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is no file"),
        (b"[api\n", "is not TOML"),
        (b"\xff", "is not UTF-8"),
        (b"[database]\ndns = 's3cret-2f9c'\n", "database.dns: no such key"),
    ],
)
@pytest.mark.parametrize("kind", ["service", "cron"])
async def test_a_configuration_that_cannot_be_used(text: bytes | None, words: str, kind: str, tmp_path: Path) -> None:
    """78, one line that says why, and nothing on stdout that could be saved by mistake."""
    path = tmp_path / "config.toml"
    if text is not None:
        path.write_bytes(text)
    ended = await command("unit", kind, "--config", str(path), env=without_settings())
    assert (ended.exit_code, ended.stdout) == (78, "")
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "s3cret" not in ended.stderr


@pytest.mark.parametrize(
    "args", [(), ("socket",), ("timer", "--once"), ("cron", "--once"), ("timer", "--config", "x"), ("service", "extra")]
)
async def test_bad_usage(args: tuple[str, ...]) -> None:
    """64 and nothing on stdout."""
    ended = await command("unit", *args, env=without_settings())
    assert (ended.exit_code, ended.stdout) == (64, "")
