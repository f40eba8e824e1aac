"""Settings: where they are looked for, what beats what, and what is said of a bad one."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import pytest

from tests.support.settings import SECRET, complaint
from worker import config
from worker.config import Settings, find_config, load, validated
from worker.errors import ConfigError

PLACES = config.DEFAULT_FILES


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the machine that runs the tests."""
    for name in [name for name in os.environ if name.upper().startswith("CASPEN_SYNC_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "DEFAULT_FILES", (Path("config.toml"), tmp_path / "etc.toml"))


def written(text: str, name: str = "config.toml") -> Path:
    path = Path.cwd() / name
    path.write_text(text, encoding="utf-8")
    return path


# -- where from ------------------------------------------------------------------------------------------------------


def test_the_places_where_a_file_is_looked_for() -> None:
    """As promised; the other tests put a file of their own in the second one's place."""
    assert (Path("config.toml"), Path("/etc/caspen-sync/config.toml")) == PLACES


def test_the_first_file_that_is_found_is_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, then the variable, then ./config.toml, then /etc; the others are not read, let alone merged."""
    etc = written("retry.max_attempts = 4", "etc.toml")
    assert find_config(None) == etc
    here = written("retry.max_attempts = 3")
    assert find_config(None) == Path("config.toml")
    named = written("retry.quick_attempts = 2", "named.toml")
    monkeypatch.setenv("CASPEN_SYNC_CONFIG", str(named))
    assert find_config(None, os.environ) == named
    settings = load()
    assert (settings.retry.quick_attempts, settings.retry.max_attempts) == (2, 20)
    assert load(here).retry.max_attempts == 3
    monkeypatch.setenv("CASPEN_SYNC_CONFIG", "")
    assert load().retry.max_attempts == 3


def test_without_any_file_the_defaults_hold() -> None:
    """A configuration is not asked for: a container gets by with the environment."""
    assert load() == Settings()


@pytest.mark.parametrize("by", ["flag", "variable"])
@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_was_named_must_be_there(monkeypatch: pytest.MonkeyPatch, by: str, name: str) -> None:
    """No silent step to the next place: the message says who named what, and where to find a pattern."""
    written("")
    if by == "variable":
        monkeypatch.setenv("CASPEN_SYNC_CONFIG", name)
    with pytest.raises(ConfigError, match=r"config\.example\.toml") as caught:
        load(Path(name) if by == "flag" else None)
    assert str(caught.value).startswith("--config" if by == "flag" else "$CASPEN_SYNC_CONFIG")
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "text", [f'[database]\ndsn = "{SECRET}', f"= {SECRET}", f"[api]\ntimeout_s = {SECRET}", "a = 1\na = 2"]
)
def test_a_file_that_is_no_toml(text: str) -> None:
    """The message names the file, and quotes nothing of it."""
    path = written(text)
    with pytest.raises(ConfigError, match="is not TOML: ") as caught:
        load()
    assert path.name in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_is_no_utf8() -> None:
    """The same for a file in another encoding."""
    Path("config.toml").write_bytes(b"# \xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load()


# -- what beats what -------------------------------------------------------------------------------------------------


def test_a_flag_beats_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting by setting: what one of them does not say, the next one does, inside of a section too."""
    written(
        '[database]\ndsn = "file"\npgbouncer = true\n[log]\nlevel = "error"\nformat = "json"\n'
        "[retry]\nmax_attempts = 7\n"
        '[accounts.default]\ntoken_file = "/file"\nrate_limit = 7\n[accounts.other]\nrate_limit = 8\n'
    )
    monkeypatch.setenv("CASPEN_SYNC_DATABASE__DSN", "environment")
    monkeypatch.setenv("CASPEN_SYNC_LOG__LEVEL", "warning")
    monkeypatch.setenv("CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN", SECRET)
    settings = load(None, {"database": {"dsn": "flag"}})
    assert settings.database.dsn.get_secret_value() == "flag"
    assert settings.database.pgbouncer is True
    assert (settings.log.level, settings.log.format) == ("warning", "json")
    assert (settings.retry.max_attempts, settings.retry.quick_attempts) == (7, 3)
    account = settings.accounts["default"]
    assert account.token is not None
    assert (account.token.get_secret_value(), account.token_file, account.rate_limit) == (SECRET, Path("/file"), 7)
    assert settings.accounts["other"].rate_limit == 8


def test_every_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text becomes what the setting is: numbers, booleans, paths, and a list out of JSON."""
    values = {
        "API__TIMEOUT_S": "12.5",
        "API__IDS": "any",
        "DATABASE__PGBOUNCER": "true",
        "ACCOUNTS__DEFAULT__RATE_LIMIT": "7",
        "ACCOUNTS__DEFAULT__TOKEN_FILE": "/t",
        "ACCOUNTS__NORTH__TOKEN": "12345",
        "WORKER__COALESCE": "0",
        "HTTP__LISTEN": "",
        "HTTP__TOKEN": "1234567890123456",
        "HTTP__TOKEN_FILE": "/page",
        "HTTP__HOSTS": '["Sync.example", "sync"]',
    }
    for name, value in values.items():
        monkeypatch.setenv(f"CASPEN_SYNC_{name}", value)
    settings = load()
    assert (settings.api.timeout_s, settings.api.ids, settings.database.pgbouncer) == (12.5, "any", True)
    assert settings.accounts["default"].rate_limit == 7
    assert settings.accounts["default"].token_file == Path("/t")
    token = settings.accounts["north"].token
    assert token is not None
    assert token.get_secret_value() == "12345"
    assert (settings.worker.coalesce, settings.http.listen) == (False, "")
    assert settings.http.token is not None
    assert settings.http.token.get_secret_value() == "1234567890123456"
    assert (settings.http.token_file, settings.http.hosts) == (Path("/page"), ("sync.example", "sync"))


def test_an_account_of_the_file_gets_its_token_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the letters of its name: the variable's are capitals, as everywhere."""
    written("[accounts.North]\nrate_limit = 7\n")
    monkeypatch.setenv("CASPEN_SYNC_ACCOUNTS__NORTH__TOKEN", SECRET)
    settings = load()
    assert list(settings.accounts) == ["North"]
    assert settings.accounts["North"].token is not None


# -- bad ones --------------------------------------------------------------------------------------------------------

BAD: list[tuple[str, Any]] = [
    ("database.dsn", 5),
    ("database.dsn", [SECRET]),
    ("database.pgbouncer", SECRET),
    ("api.base_url", SECRET),
    ("api.base_url", f"https://{SECRET}@api.caspen.com/v1"),
    ("api.base_url", f"https://u:{SECRET}@api.caspen.com/v1"),
    ("api.base_url", f"https://api.caspen.com/v1?token={SECRET}"),
    ("api.base_url", f"https://api.caspen.com/v1#{SECRET}"),
    ("api.base_url", "https://api.caspen.com/v1?"),
    ("api.base_url", "https://api.caspen.com/v1#"),
    ("api.base_url", "https://api.caspen.com:99999/v1"),
    ("api.base_url", "https://api.caspen.com:port/v1"),
    ("api.base_url", "https://api.caspen.com/v 1"),
    ("api.base_url", "https://[::1/v1"),
    ("api.base_url", "https:///v1"),
    ("api.base_url", "ftp://127.0.0.1/v1"),
    ("api.base_url", ""),
    ("api.timeout_s", 0),
    ("api.timeout_s", -1),
    ("api.timeout_s", 601),
    ("api.timeout_s", float("nan")),
    ("api.timeout_s", SECRET),
    ("api.ids", SECRET),
    ("api.ca_file", 5),
    ("api.proxy", 5),
    ("api.proxy", ""),
    ("api.proxy", SECRET),
    ("api.proxy", f"{SECRET}:3128"),
    ("api.proxy", f"http://u:{SECRET}@proxy"),
    ("api.proxy", f"http://u:{SECRET}@proxy:0"),
    ("api.proxy", f"http://u:{SECRET}@proxy:99999"),
    ("api.proxy", f"http://u:{SECRET}@proxy:port"),
    ("api.proxy", f"http://u:{SECRET}@:3128"),
    ("api.proxy", f"http://u:{SECRET}@pro xy:3128"),
    ("api.proxy", f"http://u:{SECRET}\n@proxy:3128"),
    ("api.proxy", f"http://u:{SECRET}ü@proxy:3128"),
    ("api.proxy", f"http://u:{SECRET}/@proxy:3128"),
    ("api.proxy", f"http://[::1:{SECRET}"),
    ("api.proxy", f"http://proxy:3128/{SECRET}"),
    ("api.proxy", f"http://proxy:3128?{SECRET}"),
    ("api.proxy", f"http://proxy:3128#{SECRET}"),
    ("api.proxy", f"socks5://u:{SECRET}@proxy:3128"),
    ("accounts", {}),
    ("accounts.default", SECRET),
    ("accounts.default.token", 12345),
    ("accounts.default.rate_limit", 0),
    ("accounts.default.rate_limit", 1.5),
    ("accounts.default.rate_window_s", 0),
    ("accounts.default.rate_guard_s", -0.1),
    ("accounts.default.concurrency", 0),
    ("accounts.default.live_reserve", 1.0),
    ("accounts.default.live_reserve", -0.1),
    ("retry.quick_attempts", 0),
    ("retry.backoff_base_s", 0),
    ("retry.backoff_max_s", float("inf")),
    ("retry.max_attempts", 0),
    ("worker.poll_s", 0),
    ("worker.coalesce", SECRET),
    ("worker.retention_days", 0),
    ("log.format", SECRET),
    ("log.level", SECRET),
    ("http.listen", 9464),
    ("http.token", 12345),
    ("http.token", [SECRET]),
    ("http.token_file", 5),
    ("http.hosts", SECRET),
    ("http.hosts", [SECRET, 5]),
    ("http.hosts", {SECRET: True}),
    ("http.hosts", [f"https://{SECRET}"]),
    ("http.hosts", [f"{SECRET}:443"]),
    ("http.hosts", [f"{SECRET}/page"]),
    ("http.hosts", [f"*.{SECRET}"]),
    ("http.hosts", [f"{SECRET} "]),
    ("http.hosts", [f"{SECRET}\n"]),
    ("http.hosts", [f"{SECRET}."]),
    ("http.hosts", [f"{SECRET}é"]),
    ("http.hosts", ["sync.example", ""]),
    ("retry", SECRET),
]


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_value_is_named_by_its_key(key: str, value: Any) -> None:
    """One line: where, which key, what it must be; never the value, which may be a password in the wrong place."""
    line = complaint(nested(key, value))
    assert line.startswith(f"here: {key}: ")
    assert len(line) > len(f"here: {key}: ")
    assert "\n" not in line


def test_all_bad_values_are_named_at_once() -> None:
    """One run of the command shows everything that is to be mended."""
    lines = complaint({"api": {"timeout_s": 0, "idz": 1}, "log": {"level": SECRET}, "retri": {}}).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["api.timeout_s", "api.idz", "log.level", "retri"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("databse", "did you mean database?"),
        ("api.timeout", "did you mean timeout_s?"),
        ("accounts.default.tokenfile", "did you mean token_file?"),
        ("accounts.north.rate_limt", "did you mean rate_limit?"),
        ("retry.max_attempt", "did you mean max_attempts?"),
        ("log.colour", "the keys here are format, level"),
        ("zzz", "the keys here are database, api, accounts, retry, worker, http, log"),
    ],
)
def test_an_unknown_key_comes_with_a_hint(key: str, hint: str) -> None:
    """A key that was mistyped is an error, not a setting that silently has no effect."""
    assert complaint(nested(key, SECRET)) == f"here: {key}: no such key; {hint}"


def test_the_proxy_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its password is better kept; a bad one is named by its key and not quoted."""
    monkeypatch.setenv("CASPEN_SYNC_API__PROXY", f"http://u:{SECRET}@proxy:3128")
    monkeypatch.setenv("CASPEN_SYNC_API__CA_FILE", "/ca.pem")
    api = load().api
    assert api.proxy is not None
    assert (api.proxy.get_secret_value(), api.ca_file) == (f"http://u:{SECRET}@proxy:3128", Path("/ca.pem"))
    monkeypatch.setenv("CASPEN_SYNC_API__PROXY", f"u:{SECRET}@proxy:3128")
    with pytest.raises(ConfigError, match=r"^environment: api\.proxy: must be http://host:port") as caught:
        load()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "name",
    ["CASPEN_SYNC_DATABSE__DSN", "CASPEN_SYNC_TOKEN", "CASPEN_SYNC_DATABASE_DSN", "CASPEN_SYNC_", "CASPEN_SYNC___API"],
)
def test_an_unknown_variable_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A variable with our prefix that names no section: said by its name, not its value."""
    monkeypatch.setenv(name, SECRET)
    with pytest.raises(
        ConfigError, match=rf"environment: {name} names no setting; the sections are database, "
    ) as caught:
        load()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("CASPEN_SYNC_DATABASE__DNS", "database.dns"),
        ("CASPEN_SYNC_API__TIMEOUT_S", "api.timeout_s"),
        ("CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKN", "accounts.default.tokn"),
        ("CASPEN_SYNC_API__TIMEOUT_S__X", "api.timeout_s"),
        ("CASPEN_SYNC_DATABASE", "environment: database: "),
        ("CASPEN_SYNC_ACCOUNTS", "environment: accounts: "),
        ("CASPEN_SYNC_HTTP__HOSTS", "environment: http.hosts: "),
    ],
)
def test_a_bad_variable_is_named_and_its_value_is_not(monkeypatch: pytest.MonkeyPatch, name: str, key: str) -> None:
    """Unknown below a section, no number, a level too deep, or a DSN that was given to the section itself."""
    monkeypatch.setenv(name, f"postgresql://u:{SECRET}@h/d")
    with pytest.raises(ConfigError) as caught:
        load()
    assert key in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_bad_variable_is_not_blamed_on_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the message looks in the right place."""
    path = written("[log]\nlevel = 'info'\n")
    monkeypatch.setenv("CASPEN_SYNC_API__TIMEOUT_S", "0")
    with pytest.raises(ConfigError, match=r"api\.timeout_s") as caught:
        load()
    assert path.name not in str(caught.value)


def test_variables_that_are_no_settings_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration's place and the tests' DSN share the prefix."""
    monkeypatch.setenv("CASPEN_SYNC_TEST_DSN", "x")
    monkeypatch.setenv("CASPEN_SYNC_CONFIG", "")
    assert load() == Settings()


def test_a_repr_holds_no_secret() -> None:
    """Settings may end up in a log line."""
    settings = validated(
        {
            "database": {"dsn": f"postgresql://u:{SECRET}@h/d"},
            "accounts": {"default": {"token": SECRET}},
            "http": {"token": SECRET},
        },
        origin="here",
    )
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
