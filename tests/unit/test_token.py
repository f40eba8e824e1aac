"""Tokens: out of a file that may change, or out of the settings."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from worker.config import AccountSettings, HttpSettings, validated
from worker.errors import ConfigError
from worker.privacy import redacted
from worker.token import TokenSource, account_token, read_page_token

TOKEN = "tok-5f0e1c"
PAGE_TOKEN = "page-5f0e1c-72b4"
MAKE_ONE = "; make one: openssl rand -hex 24"


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
    assert account_token("default", AccountSettings(token_file=file)).token == TOKEN


def test_a_file_is_read_again_when_it_changes(file: Path) -> None:
    """A rotated token is taken at the next look, replaced or written over, longer, shorter or of the same length."""
    source = account_token("default", AccountSettings(token_file=file))
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
    source = account_token("default", AccountSettings(token_file=file))
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
        account_token("default", AccountSettings(token_file=file))
    assert str(caught.value).startswith("accounts.default.token_file")
    assert str(file) in str(caught.value)
    assert "words" not in str(caught.value)


def test_a_file_that_goes_bad_leaves_the_old_token_in_use(file: Path) -> None:
    """A rotation that is half done is an error to log; the worker goes on with what it has, and recovers by itself."""
    source = account_token("default", AccountSettings(token_file=file))
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
        account_token("default", AccountSettings(token_file=tmp_path / name))


def test_the_token_itself_beats_the_file(tmp_path: Path) -> None:
    """With a token in the environment the file is not even looked at."""
    settings = AccountSettings(token=SecretStr(TOKEN), token_file=tmp_path / "missing")
    source = account_token("default", settings)
    source.refresh()
    assert source.token == TOKEN


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nfeed", "tökn", "tab\t"])
def test_a_token_that_cannot_be_sent_is_an_error(token: str) -> None:
    """It would break the header, or smuggle one in; the message does not quote it."""
    with pytest.raises(ConfigError, match=r"^accounts\.north\.token: ") as caught:
        account_token("north", AccountSettings(token=SecretStr(token)))
    assert not token.strip() or token not in str(caught.value)


def test_no_token_at_all() -> None:
    """The message says both ways to give one."""
    with pytest.raises(ConfigError, match="token_file") as caught:
        account_token("default", AccountSettings())
    assert "CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN" in str(caught.value)


def test_a_token_shows_up_nowhere(file: Path) -> None:
    """Neither in a repr nor in an error with its whole traceback."""
    settings = AccountSettings(token_file=file, token=SecretStr(TOKEN))
    source = account_token("default", settings)
    assert TOKEN not in f"{source!r} {source} {settings!r} {settings}"
    file.write_text(f"{TOKEN} {TOKEN}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        account_token("default", AccountSettings(token_file=file))
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


# -- the page's ------------------------------------------------------------------------------------------------------


def page_source(**settings: object) -> TokenSource:
    source = read_page_token(HttpSettings.model_validate(settings))
    assert source is not None
    return source


def test_the_page_has_a_token_of_its_own(tmp_path: Path) -> None:
    """Out of a file, which is read again when it changes, or out of the settings, which beat it."""
    file = tmp_path / "page"
    file.write_text(f"{PAGE_TOKEN}\n", encoding="utf-8")
    source = page_source(token_file=file)
    assert source.token == PAGE_TOKEN
    replace(file, PAGE_TOKEN[::-1])
    source.refresh()
    assert source.token == PAGE_TOKEN[::-1]
    assert page_source(token_file=file, token=PAGE_TOKEN).token == PAGE_TOKEN
    assert PAGE_TOKEN not in f"{source!r} {source}"


@pytest.mark.parametrize("token", ["", "x" * 15, "two words of a page", "pagé" * 8, "\t" * 20])
@pytest.mark.parametrize("in_file", [True, False])
def test_a_page_token_that_could_be_guessed(tmp_path: Path, token: str, *, in_file: bool) -> None:
    """Empty, short, several words, not ASCII: the message names the key and how to make one, and quotes nothing."""
    file = tmp_path / "page"
    file.write_text(token, encoding="utf-8")
    origin = f"token_file ({file})" if in_file else "token"
    with pytest.raises(ConfigError) as caught:
        page_source(**({"token_file": file} if in_file else {"token": token}))
    assert str(caught.value).startswith(f"http.{origin}: ")
    assert str(caught.value).endswith(MAKE_ONE)
    assert not token.strip() or token not in "".join(traceback.format_exception(caught.value))


def test_how_short_a_page_token_may_be() -> None:
    """Sixteen characters; one less is named as such."""
    assert page_source(token="x" * 16).token == "x" * 16
    with pytest.raises(ConfigError, match=rf"^http\.token: must have 16 characters or more{MAKE_ONE}$"):
        page_source(token="x" * 15)


def test_a_page_token_file_that_is_not_there(tmp_path: Path) -> None:
    """The message names the page's key, and no account; a file that goes away later leaves the old token in use."""
    with pytest.raises(ConfigError, match=r"^http\.token_file: cannot read .*: No such file"):
        page_source(token_file=tmp_path / "missing")
    file = tmp_path / "page"
    file.write_text(PAGE_TOKEN, encoding="utf-8")
    source = page_source(token_file=file)
    file.unlink()
    with pytest.raises(ConfigError, match=r"^http\.token_file: cannot read"):
        source.refresh()
    assert source.token == PAGE_TOKEN


@pytest.mark.parametrize("listen", ["127.0.0.1:9464", "127.8.8.8:0", "[::1]:9464", "localhost:9464", "LOCALHOST:1", ""])
def test_no_page_token_on_loopback(listen: str) -> None:
    """Whoever is on this host may look without one; and so may nobody, where nothing listens."""
    assert read_page_token(HttpSettings(listen=listen)) is None


def test_where_nothing_listens_no_token_is_read(tmp_path: Path) -> None:
    """With http.listen = "" nobody asks for it, whatever it is like."""
    assert read_page_token(HttpSettings(listen="", token_file=tmp_path / "missing")) is None


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:0", "[::ffff:192.0.2.1]:1", "localhost.example:1", "host:9464"]
)
def test_a_page_for_other_hosts_needs_a_token(listen: str) -> None:
    """Beyond loopback all could look: one line that names the key, the address, why, and both mends. With a token that
    is as it should be."""
    with pytest.raises(ConfigError) as caught:
        read_page_token(HttpSettings(listen=listen))
    assert str(caught.value) == (
        f"http.listen: other hosts can reach {listen}, and without a token all of them could look; "
        "set http.token_file, or listen on 127.0.0.1:9464"
    )
    assert page_source(listen=listen, token=PAGE_TOKEN).token == PAGE_TOKEN


def test_a_page_token_is_never_said(tmp_path: Path) -> None:
    """From when it is read, out of the settings or out of a file."""
    validated({"http": {"token": "page-withheld-1-9c"}})
    file = tmp_path / "page"
    file.write_text("page-withheld-2-9c\n", encoding="utf-8")
    page_source(token_file=file)
    assert redacted("page-withheld-1-9c page-withheld-2-9c") == "[withheld] [withheld]"
