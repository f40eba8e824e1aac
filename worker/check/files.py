"""The accounts' tokens, without a request: that there is one, and that it is nobody else's."""

from __future__ import annotations

from worker.check.config import readable_by_all
from worker.check.finding import Finding, ok, told_by, warning
from worker.config import AccountSettings, Settings
from worker.errors import ConfigError
from worker.token import TokenSource, account_token

NAME = "token"


def tokens(settings: Settings) -> tuple[dict[str, TokenSource], list[Finding]]:
    """The tokens that can be used, by account, and a finding for each account."""
    sources: dict[str, TokenSource] = {}
    found: list[Finding] = []
    for name, account in sorted(settings.accounts.items()):
        try:
            source = account_token(name, account)
        except ConfigError as error:
            found.append(
                told_by(NAME, error, "write the token into that file; the worker's user has to be able to read it")
            )
            continue
        twin = next((other for other, known in sources.items() if known.fingerprint == source.fingerprint), None)
        sources[name] = source
        found.append(_finding(name, account, twin))
    return sources, found


def _finding(name: str, account: AccountSettings, twin: str | None) -> Finding:
    file = account.token_file.expanduser() if account.token is None and account.token_file else None
    if twin is not None:
        return warning(
            NAME,
            f"account {name} has account {twin}'s token: they share one budget at the API, and each takes a whole one",
            "give each account a token of its own, or write all changes for one account",
        )
    if file is not None and readable_by_all(file):
        return warning(
            NAME, f"account {name}: every user of this host can read {file}", f"chmod 600 {file}, owned by the worker"
        )
    return ok(NAME, f"account {name}: {'in ' + str(file) if file else 'in the settings themselves'}")
