"""What stands in the units and the crontab line, for installations and configurations of all kinds."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from worker import unit
from worker.config import load, validated
from worker.errors import ConfigError
from worker.unit import quoting
from worker.unit.installation import closed_to

BIN = "/opt/caspen-sync/bin/caspen-sync"
TOKEN_FILE = {"accounts": {"default": {"token_file": "/etc/caspen-sync/token"}}}


def plan(
    settings: dict[str, Any] | None = None,
    *,
    command: tuple[str, ...] = (BIN,),
    folder: Path | None = None,
    parts: tuple[str, ...] = ("/opt/caspen-sync",),
    config: str = "/etc/caspen-sync/config.toml",
    for_one_user: bool = False,
) -> unit.Plan:
    """A plan for an installation in /opt, unless said otherwise."""
    installation = unit.Installation(
        command=command, folder=folder, parts=[Path(part) for part in parts], for_one_user=for_one_user
    )
    return unit.Plan(installation=installation, config=Path(config), settings=validated(settings or TOKEN_FILE))


def lines(text: str, key: str) -> list[str]:
    """The values of a setting of a unit."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


# -- the units -------------------------------------------------------------------------------------------------------


def test_the_service() -> None:
    """It is started with its configuration as a credential, watched, started again for ever, and stops after the
    requests on the wire."""
    text = unit.service(plan({**TOKEN_FILE, "api": {"timeout_s": 12.5}}))
    assert lines(text, "Type") == ["notify"]
    assert lines(text, "NotifyAccess") == ["main"]
    assert lines(text, "ExecStart") == [f"{BIN} run --config %d/config.toml"]
    assert lines(text, "ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert lines(text, "WatchdogSec") == ["60"]
    assert lines(text, "Restart") + lines(text, "RestartSec") + lines(text, "StartLimitIntervalSec") == [
        "always",
        "5",
        "0",
    ]
    assert lines(text, "TimeoutStopSec") == ["28"]
    assert lines(text, "User") + lines(text, "DynamicUser") == ["caspen-sync", "yes"]
    assert lines(text, "ProtectHome") == ["yes"]
    assert lines(text, "BindReadOnlyPaths") + lines(text, "WorkingDirectory") == []
    assert lines(text, "WantedBy") == ["multi-user.target"]


def test_the_one_that_the_timer_starts() -> None:
    """One run, whose left work is no failure; nothing starts it but the timer, and it may take its time and a
    request's."""
    text = unit.once(plan({**TOKEN_FILE, "api": {"timeout_s": 12.5}}))
    assert lines(text, "ExecStart") == [f"{BIN} run --once --max-runtime 50 --config %d/config.toml"]
    assert lines(text, "SuccessExitStatus") == ["75"]
    assert lines(text, "TimeoutStartSec") == ["78"]
    assert lines(text, "Restart") + lines(text, "WatchdogSec") + lines(text, "WantedBy") == []


def test_the_timer() -> None:
    """Each minute, to the second, and never one that was missed."""
    text = unit.timer()
    assert lines(text, "OnCalendar") + lines(text, "AccuracySec") + lines(text, "Persistent") == [
        "minutely",
        "1s",
        "false",
    ]
    assert lines(text, "WantedBy") == ["timers.target"]


def test_cron() -> None:
    """One line beside its comments."""
    (line,) = (line for line in unit.cron(plan()).splitlines() if not line.startswith("#"))
    assert line == f"* * * * * caspen-sync {BIN} run --once --max-runtime 50 --config /etc/caspen-sync/config.toml"


def test_python_instead_of_the_command() -> None:
    """A checkout is started by its interpreter, in its folder."""
    checkout = plan(command=("/usr/bin/python3", "-m", "worker"), folder=Path("/srv/caspen sync"))
    assert lines(unit.service(checkout), "WorkingDirectory") == ["/srv/caspen sync"]
    assert unit.service(checkout).count("ExecStart=/usr/bin/python3 -m worker run --config") == 1
    assert " caspen-sync cd '/srv/caspen sync' && /usr/bin/python3 -m worker run" in unit.cron(checkout)


# -- credentials -----------------------------------------------------------------------------------------------------


def test_what_systemd_hands_over() -> None:
    """Each account's token file and the CA's certificates, and the variables that tell the program where they are."""
    text = unit.service(
        plan(
            {
                "api": {"ca_file": "/etc/caspen-sync/ca.pem"},
                "accounts": {
                    "default": {"token_file": "/etc/caspen-sync/token"},
                    "North_2": {"token_file": "/etc/caspen-sync/north"},
                    "inline": {"token": "tok-5f0e1c", "token_file": "/etc/caspen-sync/unused"},
                },
            }
        )
    )
    assert lines(text, "LoadCredential") == [
        "config.toml:/etc/caspen-sync/config.toml",
        "token.default:/etc/caspen-sync/token",
        "token.North_2:/etc/caspen-sync/north",
        "ca.pem:/etc/caspen-sync/ca.pem",
    ]
    assert lines(text, "Environment") == [
        "CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN_FILE=%d/token.default",
        "CASPEN_SYNC_ACCOUNTS__NORTH_2__TOKEN_FILE=%d/token.North_2",
        "CASPEN_SYNC_API__CA_FILE=%d/ca.pem",
    ]
    assert "tok-5f0e1c" not in text


def test_the_page_s_token_is_handed_over_to_the_service() -> None:
    """Under a name that no account's token can have; a single run has no page, and does not need it. A token that
    stands in the settings needs no file."""
    accounts = {name: {"token_file": f"/etc/{name}"} for name in ("http", "page", "default")}
    both = plan({"accounts": accounts, "http": {"token_file": "/etc/caspen-sync/page-token"}})
    text = unit.service(both)
    handed_over = [line.partition(":")[0] for line in lines(text, "LoadCredential")]
    assert handed_over == ["config.toml", "token.http", "token.page", "token.default", "page.token"]
    assert "page.token:/etc/caspen-sync/page-token" in lines(text, "LoadCredential")
    assert lines(text, "Environment")[-1] == "CASPEN_SYNC_HTTP__TOKEN_FILE=%d/page.token"
    for other in (unit.once(both), unit.service(plan({"http": {"token": "x" * 16, "token_file": "/unused"}}))):
        assert "page.token" not in other
        assert "SYNC_HTTP__TOKEN" not in other


def test_a_token_is_read_from_its_file_without_its_lines() -> None:
    """That is said wherever one is handed over, the page's too, and nowhere else."""
    said = "# Without its two lines, a token is read from the file itself"
    assert said in unit.service(plan({"http": {"token_file": "/etc/caspen-sync/page-token"}}))
    assert said not in unit.service(plan({"http": {"token": "x" * 16}, "api": {"ca_file": "/etc/ca.pem"}}))


@pytest.mark.parametrize("names", [("north-1",), ("a__b",), ("_a",), ("a_",), ("a b",), ("a/b",), ("é",), ("ab", "AB")])
def test_names_that_no_variable_can_bear(names: tuple[str, ...]) -> None:
    """Such an account's token stays where it is: the user has to be able to read it, and that is said."""
    settings = {"accounts": {name: {"token_file": f"/tmp/t{number}"} for number, name in enumerate(names)}}
    text = unit.service(plan(settings))
    assert lines(text, "LoadCredential") == ["config.toml:/etc/caspen-sync/config.toml"]
    assert lines(text, "Environment") == []
    assert lines(text, "BindReadOnlyPaths") == [f"/tmp/t{number}" for number in range(len(names))]
    remarks = list(unit.on_service(plan(settings)))
    for number, name in enumerate(names):
        assert any(name in remark and f"/tmp/t{number}" in remark for remark in remarks)


@pytest.mark.parametrize("name", ["default", "North_2", "n0rth"])
def test_the_variables_mean_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With them, and the printed configuration, the tokens are read from the credentials."""
    config = tmp_path / "config.toml"
    text = f'[accounts.{name}]\ntoken_file = "/nowhere"\n[http]\ntoken_file = "/nowhere"\n'
    config.write_text(text, encoding="utf-8")
    settings = {"accounts": {name: {"token_file": "/nowhere"}}, "http": {"token_file": "/nowhere"}}
    for assignment in lines(unit.service(plan(settings)), "Environment"):
        variable, _, value = assignment.partition("=")
        monkeypatch.setenv(variable, value.replace("%d", "/run/credentials/x"))
    loaded = load(config)
    assert loaded.accounts[name].token_file == Path(f"/run/credentials/x/token.{name}")
    assert loaded.http.token_file == Path("/run/credentials/x/page.token")


def test_relative_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They mean what they mean where the unit is printed; cron starts elsewhere, and that is said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    settings = {"accounts": {"default": {"token_file": "../token"}, "north": {"token_file": "~/north"}}}
    credentials = lines(unit.service(plan(settings)), "LoadCredential")
    assert credentials[1:] == [f"token.default:{tmp_path.parent}/token", "token.north:/home/me/north"]
    assert any("../token means another file to cron" in remark for remark in unit.on_cron(plan(settings)))


# -- where a service sees nothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "home", "shown"),
    [
        (["/opt/x", "/usr"], "yes", []),
        (["/tmp/x/bin/caspen-sync", "/tmp/x", "/usr"], "yes", ["/tmp/x"]),
        (["/home/me/venv", "/home/me/.pyenv/v", "/home/me/venv/lib"], "tmpfs", ["/home/me/.pyenv/v", "/home/me/venv"]),
        (["/root/a b", "/var/tmp/c"], "tmpfs", ['"/root/a b"', "/var/tmp/c"]),
        (["/homely/x", "/tmpx"], "yes", []),
    ],
)
def test_an_installation_in_a_home_or_in_tmp(parts: list[str], home: str, shown: list[str]) -> None:
    """It is shown to the service, and nothing else that is there."""
    text = unit.service(plan(parts=tuple(parts)))
    assert lines(text, "ProtectHome") == [home]
    assert lines(text, "BindReadOnlyPaths") == shown


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql:///clinic?host=/tmp/pg", ["/tmp/pg"]),
        ("postgresql://me:pw@%2Fhome%2Fpg:5433/clinic", ["/home/pg"]),
        ("postgresql://%2Ftmp%2Fa,%2Ftmp%2Fb/clinic", ["/tmp/a", "/tmp/b"]),
        ("postgresql:///clinic?host=/run/postgresql", []),
        ("postgresql://tmp.example/tmp", []),
        ("postgresql://[/x", []),
        ("", []),
    ],
)
def test_a_socket_there(dsn: str, shown: list[str]) -> None:
    """So is the folder of Postgres's socket."""
    assert lines(unit.service(plan({**TOKEN_FILE, "database": {"dsn": dsn}})), "BindReadOnlyPaths") == shown


def test_a_socket_in_tmp_itself() -> None:
    """It cannot be shown, and that is said."""
    settings = {**TOKEN_FILE, "database": {"dsn": "postgresql:///clinic?host=/tmp"}}
    assert lines(unit.service(plan(settings)), "BindReadOnlyPaths") == []
    assert any("unix_socket_directories" in remark for remark in unit.on_service(plan(settings)))


# -- remarks ---------------------------------------------------------------------------------------------------------


def test_nothing_to_remark(tmp_path: Path) -> None:
    """A plan that works is not talked about."""
    (tmp_path / "token").touch()
    sound = plan({"accounts": {"default": {"token_file": str(tmp_path / "token")}}}, parts=("/usr/bin/env",))
    assert [*unit.on_service(sound), *unit.on_cron(sound)] == []


def test_no_token() -> None:
    """An account without one is named, for either."""
    bare = plan({"accounts": {"north": {}}})
    for remarks in (unit.on_service(bare), unit.on_cron(bare)):
        assert any(remark.startswith("accounts.north: has no token") for remark in remarks)


def test_the_page_s_token(tmp_path: Path) -> None:
    """A file that is missing, or a page for other hosts without one, keeps the service from starting, and that is said;
    it is none of a single run's business."""
    (tmp_path / "token").touch()
    file = tmp_path / "page-token"
    sound = {"accounts": {"default": {"token_file": str(tmp_path / "token")}}}
    missing = plan({**sound, "http": {"token_file": str(file)}}, parts=("/usr/bin/env",))
    remark = f"http.token_file: {file} is not there yet, and the service does not start without it"
    assert list(unit.on_service(missing)) == [remark]
    assert [*unit.on_once(missing), *unit.on_cron(missing)] == []
    file.touch()
    assert list(unit.on_service(missing)) == []
    for_all = plan({**sound, "http": {"listen": "0.0.0.0:9464"}}, parts=("/usr/bin/env",))
    assert list(unit.on_service(for_all)) == [
        "http.listen: other hosts can reach 0.0.0.0:9464, and the service does not start without a token then; "
        "set http.token_file in /etc/caspen-sync/config.toml"
    ]
    assert [*unit.on_once(for_all), *unit.on_cron(for_all)] == []
    guarded = {"listen": "0.0.0.0:9464", "token_file": str(file)}
    assert list(unit.on_service(plan({**sound, "http": guarded}, parts=("/usr/bin/env",)))) == []


def test_an_installation_for_one_user() -> None:
    """pip install --user is for whoever did it."""
    assert any("use a venv" in remark for remark in unit.on_service(plan(for_one_user=True)))


def test_folders_that_others_may_not_enter(tmp_path: Path) -> None:
    """The first of them is named; for a service not those above what is shown to it, which it sees anew."""
    inner = tmp_path / "inner"
    inner.mkdir(mode=0o755)
    tmp_path.chmod(0o700)
    remark = f"{tmp_path}: the user caspen-sync may not enter or read it"
    private = plan(parts=(str(inner),))
    assert [remark for remark in unit.on_service(private) if "may not enter" in remark] == []
    assert closed_to("nobody", inner, shown=[inner]) is None
    assert any("may not enter" in said for said in unit.on_cron(private))
    tmp_path.chmod(0o755)
    inner.chmod(0o751)
    remark = f"{inner}: the user caspen-sync may not enter or read it"
    assert any(said.startswith(remark) for said in unit.on_service(private))


# -- quoting ---------------------------------------------------------------------------------------------------------

ODD = """/srv/a b%h${HOME}"q"'s;x:y#z"""


def test_a_crontab_line_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """Once cron has taken the backslash from each % and the shell has read it, the arguments are the paths. A % without
    one would end the command."""
    script = tmp_path / ODD.lstrip("/").replace("/", "_") / "caspen-sync"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    line = unit.cron(plan(command=(str(script),), folder=script.parent, config=f"{ODD}/config.toml")).splitlines()[-1]
    assert line.count("%") == line.count("\\%")
    command = line.removeprefix("* * * * * caspen-sync ").replace("\\%", "%")
    said = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()
    options = ["run", "--once", "--max-runtime", "50", "--config", f"{ODD}/config.toml"]
    assert said == [str(script.parent), *options]


def test_odd_paths_in_a_unit() -> None:
    """What systemd would read as something else is quoted where it reads words, and only doubled where it takes the
    rest of the line; with a $ in it, the command is kept from being searched for variables. A real systemd reads them
    in test_real_systemd.py."""
    command = ("/srv/a b%h${HOME}/caspen-sync",)
    text = unit.service(plan(command=command, folder=Path(ODD), parts=(f"/tmp{ODD}",), config=f"{ODD}/config.toml"))
    assert lines(text, "ExecStart") == [':"/srv/a b%%h${HOME}/caspen-sync" run --config %d/config.toml']
    assert lines(text, "WorkingDirectory") == ["""/srv/a b%%h${HOME}"q"'s;x:y#z"""]
    assert lines(text, "LoadCredential")[0] == """config.toml:/srv/a b%%h${HOME}"q"'s;x:y#z/config.toml"""
    assert lines(text, "BindReadOnlyPaths") == [r'''"/tmp/srv/a b%%h${HOME}\"q\"'s;x:y#z"''']


@pytest.mark.parametrize("path", ["/a\nb", "/a\x1b[2Jb", "/a\udcffb", "/a\u202eb"])
def test_characters_that_no_file_can_hold(path: str) -> None:
    """A line feed, a control character, or no UTF-8: an error that says so, not a unit that means something else."""
    for text in (unit.service, unit.once, unit.cron):
        with pytest.raises(ConfigError, match="cannot be printed"):
            text(plan(config=f"{path}/config.toml"))


def test_ends_that_would_be_lost() -> None:
    """A backslash at the end of a line would join it with the next one, and a space is not seen."""
    for end in ("\\", " "):
        with pytest.raises(ConfigError, match="no unit can hold"):
            unit.service(plan(config=f"/etc/x{end}"))
    with pytest.raises(ConfigError, match="no crontab can hold"):
        unit.cron(plan(config="/etc/a\\b"))


@pytest.mark.parametrize("char", ["'", '"', "\\"])
def test_programs_that_systemd_does_not_start(char: str) -> None:
    """Quotes and backslashes in their paths are an error here, and not when the service is started."""
    with pytest.raises(ConfigError, match="systemd starts no program"):
        unit.service(plan(command=(f"/opt/a{char}b/caspen-sync",)))


def test_what_needs_no_quotes_has_none() -> None:
    """Usual paths are easy to read."""
    usual = "/opt/caspen-sync_1.0+x@y/bin,~"
    assert (quoting.word(usual), quoting.line(usual)) == (usual, usual)
    assert shlex.split(quoting.shell(usual)) == [usual]
