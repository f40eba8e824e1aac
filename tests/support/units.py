"""What tests of units have in common: a configuration, a unit as it is printed, and the tool that judges it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support import canary
from tests.support.processes import FAST, TOKEN, Ended, command


def without_settings() -> dict[str, str]:
    """The environment of whoever asks for a unit: none of our settings, as little as systemd knows them."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CASPEN_SYNC_", "PG"))}


def configured(folder: Path, dsn: str, base_url: str = "https://api.caspen.com/v1", token: str = TOKEN) -> Path:
    """A configuration, and a token beside it, that nobody but their owner may read."""
    canary.sing(token)
    token_file = folder / "token"
    token_file.write_text(f"{token}\n", encoding="utf-8")
    settings: dict[str, dict[str, str]] = {}
    for name, value in {"DATABASE__DSN": dsn, "API__BASE_URL": base_url, **FAST}.items():
        section, _, key = name.lower().rpartition("__")
        settings.setdefault(section.replace("__", "."), {})[key] = value
    settings["accounts.default"] |= {"token_file": str(token_file)}
    del settings["accounts.default"]["token"]
    config = folder / "config.toml"
    config.write_text(_toml(settings), encoding="utf-8")
    for file in (token_file, config):
        file.chmod(0o600)
    return config


def _toml(settings: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for section, values in settings.items():
        lines.append(f"[{section}]")
        for key, value in values.items():
            plain = value.replace(".", "", 1).isdigit() or value in ("true", "false")
            lines.append(f"{key} = {value if plain else repr(value)}")
    return "\n".join(lines)


async def unit(*args: str) -> Ended:
    """`caspen-sync unit ARGS`, which ends well."""
    ended = await command("unit", *args, env=without_settings())
    assert ended.exit_code == 0, ended.stderr
    return ended


def analyze(*args: str) -> str:
    """What systemd-analyze says, which finds nothing to complain of."""
    program = shutil.which("systemd-analyze")
    assert program, "this test needs systemd-analyze: apt-get install systemd"
    ended = subprocess.run([program, *args], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    return ended.stdout
