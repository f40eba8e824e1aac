"""Which files a service is given by systemd (LoadCredential), so that its user need not be able to read them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from worker.config import ENV_PREFIX, Settings

# A name that the environment can hold, with __ between levels.
_NAME = re.compile(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """A file, the name under which the service finds it, and the variable that tells the program so."""

    name: str
    file: Path
    setting: str
    variable: str


def absolute(path: Path) -> Path:
    """As whoever asks for the unit means it, without the .. that systemd does not take."""
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  links are kept: their targets may change


def page_credentials(settings: Settings) -> list[Credential]:
    """What only a service that listens needs: the page's token. No account's has such a name."""
    http = settings.http
    if http.token is not None or http.token_file is None:
        return []
    file = absolute(http.token_file)
    return [Credential("page.token", file, "http.token_file", f"{ENV_PREFIX}HTTP__TOKEN_FILE")]


def credentials(settings: Settings) -> list[Credential]:
    """Those of the files that the settings name, for service and cron job."""
    given = [
        Credential(f"token.{name}", file, f"accounts.{name}.token_file", _variable(name))
        for name, file in token_files(settings).items()
        if _speakable(name, settings)
    ]
    if settings.api.ca_file is not None:
        ca_file = absolute(settings.api.ca_file)
        given.append(Credential("ca.pem", ca_file, "api.ca_file", f"{ENV_PREFIX}API__CA_FILE"))
    return given


def read_directly(settings: Settings) -> dict[str, Path]:
    """By account: the token files that cannot be handed over, since no variable can bear the account's name."""
    return {name: file for name, file in token_files(settings).items() if not _speakable(name, settings)}


def token_files(settings: Settings) -> dict[str, Path]:
    """By account. One that has its token in the settings needs no file."""
    return {
        name: absolute(account.token_file)
        for name, account in settings.accounts.items()
        if account.token is None and account.token_file is not None
    }


def _speakable(account: str, settings: Settings) -> bool:
    """Whether a variable can bear the account's name. Names that differ in case only are the same variable."""
    alike = [name for name in settings.accounts if name.lower() == account.lower()]
    return _NAME.fullmatch(account) is not None and len(alike) == 1


def _variable(account: str) -> str:
    return f"{ENV_PREFIX}ACCOUNTS__{account.upper()}__TOKEN_FILE"
