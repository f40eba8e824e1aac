"""The configuration: which file, what beats it, and who else may read it."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from worker.check.finding import Finding, failed, ok, warning
from worker.config import Settings, find_config, variables_that_set
from worker.errors import ConfigError

_MEND = "mend it there; config.example.toml has every key with what it means"


def read(load: Callable[[], Settings], flag: Path | None, dsn: str | None) -> tuple[Settings | None, list[Finding]]:
    """The settings, as `load` reads them, and what is to be said of them; None when they are of no use. `flag` and
    `dsn`: --config and --dsn, if they were given."""
    try:
        path = find_config(flag)
        settings = load()
    except ConfigError as error:
        return None, [failed("config", line, _MEND) for line in error.lines]
    above = [*variables_that_set(), *(["--dsn"] if dsn is not None else [])]
    said = f"{path or 'no file, so the defaults'}" + (f"; over it {', '.join(above)}" if above else "")
    found = [ok("config", said)]
    if path is not None and _shows_a_secret(path, settings):
        found = [
            warning("config", f"{said}; every user of this host can read the secrets in it", f"chmod o-rwx {path}"),
        ]
    return settings, found


def readable_by_all(path: Path) -> bool:
    """Whether every user of this host may read the file. Raises OSError."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def _shows_a_secret(path: Path, settings: Settings) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
        return readable_by_all(path) and any(secret in text for secret in _secrets(settings))
    except (OSError, UnicodeDecodeError):
        return False


def _secrets(settings: Settings) -> Iterator[str]:
    for url in (settings.database.dsn, settings.api.proxy):
        if url is not None and (password := urlsplit(url.get_secret_value()).password):
            yield password
    for given in (*(account.token for account in settings.accounts.values()), settings.http.token):
        if given is not None and (token := given.get_secret_value()):
            yield token
