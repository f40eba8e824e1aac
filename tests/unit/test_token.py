"""Tokens: out of a file that may change, or out of the settings."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from worker.config import AccountSettings
from worker.errors import ConfigError
from worker.token import TokenSource

TOKEN = "tok-5f0e1c"


def replace(path: Path, text: str) -> None:
    """As a secret store does it: a new file in the old one's place."""
    fresh = path.with_name("fresh")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("around", ["{}", "{}\n", "  {}\t\r\n\n"])
def test_a_file_holds_the_token_and_white_space(file: Path, around: str) -> None:
    """An editor's line feed is no part of the token."""
    file.write_text(around.format(TOKEN), encoding="utf-8")
    assert TokenSource("default", AccountSettings(token_file=file)).token == TOKEN


def test_a_file_is_read_again_when_it_changes(file: Path) -> None:
    """A rotated token is taken at the next look, replaced or written over, longer, shorter or of the same length."""
    source = TokenSource("default", AccountSettings(token_file=file))
    replace(file, "other-tokn")
    assert source.token == TOKEN
    source.refresh()
    assert source.token == "other-tokn"
    file.write_text("longer-than-before", encoding="utf-8")
    source.refresh()
    assert source.token == "longer-than-before"
    file.write_text("rewritten-in-place", encoding="utf-8")
    os.utime(file, ns=(1, 1))
    source.refresh()
    assert source.token == "rewritten-in-place"


def test_a_file_that_did_not_change_is_not_read(file: Path) -> None:
    """A look costs one stat, so that it can be had before each claim."""
    source = TokenSource("default", AccountSettings(token_file=file))
    stat = file.stat()
    file.write_text(TOKEN[::-1] + "\n", encoding="utf-8")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    source.refresh()
    assert source.token == TOKEN


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"\xff\xfe\x00", b"two words", b"a\x00b", "tökn".encode(), b"a\nb", b"\xef\xbb\xbftok"]
)
def test_a_file_that_holds_no_token_is_an_error_that_names_it(file: Path, content: bytes) -> None:
    """Empty, binary, several words, not ASCII: the message names account and file, and quotes nothing of it."""
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        TokenSource("default", AccountSettings(token_file=file))
    assert str(caught.value).startswith("accounts.default.token_file")
    assert str(file) in str(caught.value)
    assert "words" not in str(caught.value)


def test_a_file_that_goes_bad_leaves_the_old_token_in_use(file: Path) -> None:
    """A rotation that is half done is an error to log; the worker goes on with what it has, and recovers by itself."""
    source = TokenSource("default", AccountSettings(token_file=file))
    breaks: list[Callable[[], None]] = [lambda: replace(file, ""), file.unlink, file.mkdir]
    for break_it in breaks:
        break_it()
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"accounts\.default\.token_file"):
                source.refresh()
            assert source.token == TOKEN
    file.rmdir()
    replace(file, "mended")
    source.refresh()
    assert source.token == "mended"


@pytest.mark.parametrize("name", ["missing", "", "a\x00b", "x" * 5000])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    """Missing, a folder, or no name that a file can have: a ConfigError that names the key."""
    with pytest.raises(ConfigError, match=r"^accounts\.default\.token_file: cannot read"):
        TokenSource("default", AccountSettings(token_file=tmp_path / name))


def test_the_token_itself_beats_the_file(tmp_path: Path) -> None:
    """With a token in the environment the file is not even looked at."""
    settings = AccountSettings(token=SecretStr(TOKEN), token_file=tmp_path / "missing")
    source = TokenSource("default", settings)
    source.refresh()
    assert source.token == TOKEN


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nfeed", "tökn", "tab\t"])
def test_a_token_that_cannot_be_sent_is_an_error(token: str) -> None:
    """It would break the header, or smuggle one in; the message does not quote it."""
    with pytest.raises(ConfigError, match=r"^accounts\.north\.token: ") as caught:
        TokenSource("north", AccountSettings(token=SecretStr(token)))
    assert not token.strip() or token not in str(caught.value)


def test_no_token_at_all() -> None:
    """The message says both ways to give one."""
    with pytest.raises(ConfigError, match="token_file") as caught:
        TokenSource("default", AccountSettings())
    assert "CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN" in str(caught.value)


def test_a_token_shows_up_nowhere(file: Path) -> None:
    """Neither in a repr nor in an error with its whole traceback."""
    settings = AccountSettings(token_file=file, token=SecretStr(TOKEN))
    source = TokenSource("default", settings)
    assert TOKEN not in f"{source!r} {source} {settings!r} {settings}"
    file.write_text(f"{TOKEN} {TOKEN}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        TokenSource("default", AccountSettings(token_file=file))
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
