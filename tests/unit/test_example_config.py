"""config.example.toml, held to the settings: what it shows is what there is."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from worker.config import AccountSettings, Settings, load, validated

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
TEXT = EXAMPLE.read_text(encoding="utf-8")
LINES = TEXT.splitlines()

# What has no default to show is shown as a comment.
SHOWN_AS_COMMENT = {"accounts.default.token", "api.ca_file", "api.proxy", "http.token", "http.token_file"}
NOT_THE_DEFAULT = {"accounts.default.token_file"}


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def settings_leaves(settings: BaseModel, path: str = "") -> Iterator[tuple[str, Any]]:
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        if isinstance(value, BaseModel):
            yield from settings_leaves(value, f"{path}{key}.")
        elif isinstance(value, dict):
            for name, section in value.items():
                yield from settings_leaves(section, f"{path}{key}.{name}.")
        elif isinstance(value, tuple):
            yield f"{path}{key}", list(value)
        else:
            yield f"{path}{key}", value.get_secret_value() if isinstance(value, SecretStr) else value


SHOWN = dict(leaves(tomllib.loads(TEXT)))
DEFAULTS = dict(settings_leaves(validated({"accounts": {"default": {}}})))


def test_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file as it stands is a sound configuration, and says no more than the defaults."""
    for name in [name for name in os.environ if name.startswith("CASPEN_SYNC_")]:
        monkeypatch.delenv(name)
    settings = load(EXAMPLE)
    assert settings.accounts["default"].token_file == Path("/etc/caspen-sync/token")
    defaults = Settings(accounts={"default": AccountSettings(token_file=Path("/etc/caspen-sync/token"))})
    assert settings == defaults


def test_every_setting_is_shown() -> None:
    """Each key of the settings, and none that there is not."""
    assert SHOWN.keys() == DEFAULTS.keys() - SHOWN_AS_COMMENT


@pytest.mark.parametrize("key", sorted(SHOWN.keys() - NOT_THE_DEFAULT))
def test_every_value_is_the_default(key: str) -> None:
    """Whoever copies the file changes nothing by it; numbers are written as what they are, 60.0 for a time."""
    assert (type(SHOWN[key]), SHOWN[key]) == (type(DEFAULTS[key]), DEFAULTS[key])


def test_the_tokens_are_there_as_comments() -> None:
    """A token's key is shown, has no value, and takes one once the comment sign is gone; so does the page's file."""
    assert [line for line in LINES if line.startswith("# token =")] == ['# token = ""', '# token = ""']
    uncommented = TEXT.replace('# token = ""', 'token = "t"').replace("# token_file = ", "token_file = ")
    settings = validated(tomllib.loads(uncommented))
    for token in (settings.accounts["default"].token, settings.http.token):
        assert token is not None
        assert token.get_secret_value() == "t"
    assert settings.http.token_file == Path("/etc/caspen-sync/page-token")


@pytest.mark.parametrize("key", sorted(SHOWN.keys() | SHOWN_AS_COMMENT))
def test_every_key_has_a_comment(key: str) -> None:
    """What a setting means stands right above it, in its section."""
    section, _, name = key.rpartition(".")
    begins = LINES.index(f"[{section}]")
    number = next(n for n, line in enumerate(LINES) if n > begins and re.match(rf"(# )?{name} = ", line))
    assert not any(line.startswith("[") for line in LINES[begins + 1 : number])
    assert LINES[number - 1].startswith("# ")
    assert LINES[number - 1].endswith(".")


def test_no_line_is_too_long() -> None:
    """It is read in a terminal."""
    assert max(map(len, LINES)) <= 120
