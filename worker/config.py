"""Settings: what each means, its unit, and what happens when it is too high or too low.

A flag beats the environment (`CASPEN_SYNC_…`, `__` between levels), the environment beats the file. An unknown key or a
bad value is a ConfigError that names the key and never the value.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from worker.addresses import is_host_name, is_proxy, parse_listen
from worker.contract import IdPolicy
from worker.errors import ConfigError
from worker.privacy import withhold, withhold_passwords

ENV_PREFIX = "CASPEN_SYNC_"
ENV_CONFIG = "CASPEN_SYNC_CONFIG"
DEFAULT_FILES = (Path("config.toml"), Path("/etc/caspen-sync/config.toml"))

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# Set for other programs of this project, and no settings.
_ENV_ELSEWHERE = {ENV_CONFIG, "CASPEN_SYNC_TEST_DSN"}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class DatabaseSettings(_Section):
    """Where the outbox is."""

    dsn: SecretStr = SecretStr("")
    """A libpq URI or nothing: then libpq's PG* variables decide."""

    pgbouncer: bool = False
    """True behind PgBouncer's transaction pooling: no LISTEN, no statement cache. Left false there, nothing works."""


class ApiSettings(_Section):
    """Where the API is and how it is spoken to."""

    base_url: str = "https://api.caspen.com/v1"

    timeout_s: float = Field(default=30.0, gt=0, le=600)
    """One request, connect to last byte, in seconds. Too low makes slow answers into unknown outcomes, which rest; too
    high holds a slot and a lease for long after a crash."""

    ca_file: Path | None = None
    """A PEM file with the certificates to trust instead of the system's, for a private CA."""

    proxy: SecretStr | None = None
    """http://host:port of a proxy to go through, by CONNECT; may hold a user and a password. The environment's
    HTTPS_PROXY is not looked at."""

    ids: IdPolicy = "integer"
    """What id fields of a body may be: integers as the API's page says, or strings too."""

    @field_validator("base_url")
    @classmethod
    def _safe_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            well_formed = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            well_formed = False
        if not well_formed or not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError("must be a URL such as https://api.caspen.com/v1")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("must be https://, or the token would travel in the clear; http:// is for loopback hosts")
        if "?" in value or "#" in value or "@" in parts.netloc:
            raise ValueError("must have no user, query or fragment; the token goes into [accounts.NAME]")
        return value.rstrip("/")

    @field_validator("proxy")
    @classmethod
    def _sound_proxy(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        if not is_proxy(value.get_secret_value()):
            raise ValueError("must be http://host:port, with a user and a password before the host if need be")
        if str(info.data.get("base_url", "")).startswith("http:"):
            raise ValueError("goes with an https:// api.base_url only: it would see the token in the clear")
        return value


class AccountSettings(_Section):
    """One API key and its budget."""

    token_file: Path | None = None
    """Read when the worker starts and again when it changes."""

    token: SecretStr | None = None
    """Meant for the environment; beats token_file."""

    rate_limit: int = Field(default=60, ge=1, le=1_000_000)
    """Requests in one window. Above what the API grants, 429s follow; below, budget is wasted."""

    rate_window_s: float = Field(default=60.0, gt=0, le=86_400)

    rate_guard_s: float = Field(default=0.5, ge=0, le=600)
    """A slot rests this much longer than the window. Too low, and servers that count in whole seconds answer 429; each
    second costs 1/60 of the budget."""

    concurrency: int = Field(default=8, ge=1, le=10_000)
    """Requests on the wire at once, in each process. Too low wastes budget when answers are slow."""

    live_reserve: float = Field(default=0.1, ge=0, le=0.9)
    """Share of the budget that backfill never takes, so that a live change finds a slot at once."""


class RetrySettings(_Section):
    """What happens to a request that the API did not do."""

    quick_attempts: int = Field(default=3, ge=1, le=20)
    """Requests within an appointment's first claim, a short jittered wait apart; later claims send one."""

    backoff_base_s: float = Field(default=2.0, gt=0, le=3600)
    """The first durable wait of an appointment is between 0 and this; it doubles from there."""

    backoff_max_s: float = Field(default=900.0, gt=0, le=86_400)

    max_attempts: int = Field(default=20, ge=1, le=1_000_000)
    """Requests spent on a change before it is parked."""

    down_after: int = Field(default=3, ge=1, le=1000)
    """Different appointments failing in a row before the API is taken to be down and the account pauses. Too low, and
    a few changes that the API stumbles over pause everything for a while; too high spends requests on an outage."""

    rejected_after: int = Field(default=10, ge=2, le=1000)
    """Different appointments rejected in a row, for one reason, before that is taken for a fault of the account (a
    wrong api.base_url) and it pauses instead of parking them. Too low, and a handful of bad changes pause everything
    for a while; too high parks and brings back more of them."""

    probe_base_s: float = Field(default=10.0, gt=0, le=3600)
    """A paused account is probed after this long, then twice as long each time."""

    probe_max_s: float = Field(default=300.0, gt=0, le=86_400)
    """No wait between two probes is longer: so late is it noticed that the API is back."""


class WorkerSettings(_Section):
    """The loop."""

    poll_s: float = Field(default=5.0, gt=0, le=3600)
    """The safety net under LISTEN. Lower finds changes sooner where NOTIFY is off; each poll is two small queries."""

    coalesce: bool = True
    """Fold all pending changes of an appointment into one request. False sends each change by itself."""

    retention_days: float = Field(default=30, gt=0, le=36_500)
    """For how long finished changes and attempts are kept."""


class HttpSettings(_Section):
    """The worker's own web address."""

    listen: str = "127.0.0.1:9464"
    """HOST:PORT or [v6 address]:PORT; port 0 is any free one. Empty turns it off. Beyond loopback it takes a token."""

    token_file: Path | None = None
    """What the page asks people for. Read when the service starts and again when it changes. Without one, whoever
    reaches the address can look, and no more than that."""

    token: SecretStr | None = None
    """Meant for the environment; beats token_file."""

    hosts: tuple[str, ...] = ()
    """Names by which the page may be asked for, such as that of a proxy before it, besides IP addresses, localhost and
    the name of this host. One that is missing is turned away; with one too many, whoever owns that name can have a
    browser in here ask for the page."""

    @field_validator("listen")
    @classmethod
    def _sound_listen(cls, value: str) -> str:
        parse_listen(value)
        return value

    @field_validator("hosts", mode="before")
    @classmethod
    def _plain_names(cls, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) and is_host_name(one) for one in value):
            raise ValueError('must be a list of host names without scheme, port and path, such as ["sync.example"]')
        return tuple(name.lower() for name in value)


class LogSettings(_Section):
    """What is logged, on stderr."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(_Section):
    """All settings, validated."""

    database: DatabaseSettings = DatabaseSettings()
    api: ApiSettings = ApiSettings()
    accounts: dict[str, AccountSettings] = Field(default_factory=lambda: {"default": AccountSettings()}, min_length=1)
    retry: RetrySettings = RetrySettings()
    worker: WorkerSettings = WorkerSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()


class _Environment(Settings, BaseSettings):
    """Tells pydantic-settings how the environment is written; its values are merged before anything is validated."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__")


class _Variables(EnvSettingsSource):
    """The environment's values."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """A list out of its JSON. What is no JSON is left as it is: its validation names the whole key."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def find_config(flag: Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file to read, by precedence; None when there is none. Raises ConfigError when a file that was named is
    missing, or when it cannot be seen whether there is one."""
    named = flag or (Path(environ[ENV_CONFIG]) if environ.get(ENV_CONFIG) else None)
    if named is not None:
        if not _is_file(named):
            origin = "--config" if flag else f"${ENV_CONFIG}"
            raise ConfigError(f"{origin} names {named}, which is no file; the source has a config.example.toml to copy")
        return named
    return next((path for path in DEFAULT_FILES if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # such as a folder that this user may not enter
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def variables_that_set(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The names of the variables that set something, in order."""
    return sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in _ENV_ELSEWHERE)


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings out of flags (nested dicts), environment and file. Raises ConfigError, one line for each bad key."""
    path = find_config(config)
    file_values = _read(path) if path else {}
    _refuse_unknown_variables(os.environ)
    try:
        variables = _Variables(_Environment)()
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from None
    variables = _with_names_of(file_values, variables)
    layers = [("command line", flags or {}), ("environment", variables), (str(path), file_values)]
    return validated(_over(_over(file_values, variables), flags or {}), layers=layers)


def load_file(path: Path) -> Settings:
    """Settings out of this file alone, as a process has them that does not share our environment. Raises
    ConfigError."""
    return validated(_read(path), origin=str(path))


def variables_set(environ: Iterable[str] = os.environ) -> list[str]:
    """The names of the environment's variables that are settings."""
    return sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in _ENV_ELSEWHERE)


def validated(
    values: Mapping[str, Any], *, origin: str = "configuration", layers: Sequence[tuple[str, Mapping[str, Any]]] = ()
) -> Settings:
    """Settings out of these values alone. Raises ConfigError, one line for each bad key, which begins with the name of
    the first layer (its name and its values) that the key stands in, or else with `origin`."""
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        details: list[Any] = list(error.errors(include_url=False, include_input=False, include_context=False))
    else:
        _withhold(settings)
        return settings
    lines = []
    for detail in details:
        place = next((name for name, layer in layers if _stands_in(layer, detail["loc"])), origin)
        lines.append(f"{place}: {_complaint(detail)}")
    raise ConfigError(*lines)


def _withhold(settings: Settings) -> None:
    """No secret among the settings is ever said. What a token file holds is withheld when it is read."""
    withhold_passwords(settings.database.dsn.get_secret_value())
    withhold(os.environ.get("PGPASSWORD", ""))
    if settings.api.proxy is not None:
        withhold_passwords(settings.api.proxy.get_secret_value())
    with_tokens: list[AccountSettings | HttpSettings] = [*settings.accounts.values(), settings.http]
    for section in with_tokens:
        if section.token is not None:
            withhold(section.token.get_secret_value())


def _with_names_of(file_values: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """A variable's name is in capitals whatever the account's is: NORTH means the file's account North."""
    known, given = file_values.get("accounts"), variables.get("accounts")
    if not isinstance(known, Mapping) or not isinstance(given, Mapping):
        return dict(variables)
    names = {name.lower(): name for name in known}
    return {**variables, "accounts": {names.get(name.lower(), name): value for name, value in given.items()}}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, level by level; where they differ, `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = _over(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None


def _refuse_unknown_variables(environ: Iterable[str]) -> None:
    """Nested names are checked with everything else; a first level that is no section would go unnoticed."""
    for name in variables_set(environ):
        section = name.removeprefix(ENV_PREFIX).split("__")[0].lower()
        if section not in Settings.model_fields:
            known = ", ".join(Settings.model_fields)
            raise ConfigError(f"environment: {name} names no setting; the sections are {known}")


def _complaint(detail: Any) -> str:
    """The key and what is wrong with it; never the value."""
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return f"{key}: no such key{_nearest(detail['loc'])}"
    return f"{key}: {detail['msg'].removeprefix('Value error, ')}"


def _stands_in(values: Any, loc: Sequence[int | str]) -> bool:
    for part in loc:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _nearest(loc: tuple[int | str, ...]) -> str:
    """A hint for a key that was mistyped."""
    from difflib import get_close_matches

    model: type[BaseModel] = Settings
    for part in loc[:-1]:
        if part == "accounts":
            model = AccountSettings
        elif str(part) in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else model
    close = get_close_matches(str(loc[-1]), model.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; the keys here are {', '.join(model.model_fields)}"
