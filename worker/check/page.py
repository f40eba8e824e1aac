"""Who may look at the page: that there is a token where there has to be one, and that it is nobody else's."""

from __future__ import annotations

from collections.abc import Mapping

from worker.addresses import is_loopback, parse_listen
from worker.check.config import readable_by_all
from worker.check.finding import Finding, ok, told_by, warning
from worker.config import HttpSettings
from worker.errors import ConfigError
from worker.token import TokenSource, read_page_token

NAME = "page"


def page(settings: HttpSettings, accounts: Mapping[str, TokenSource]) -> Finding:
    """What is to be said of the page's token, without a request. `accounts`: the accounts' tokens that can be used."""
    place = parse_listen(settings.listen)
    if place is None:
        return ok(NAME, "http.listen is empty: there is no page")
    try:
        source = read_page_token(settings)
    except ConfigError as error:
        return told_by(NAME, error, "write a token into that file; the worker's user has to be able to read it")
    if source is None:
        return ok(
            NAME,
            "no http.token_file: all on this host can look, but neither read what changes say nor change anything",
        )
    twin = next((name for name, known in accounts.items() if known.fingerprint == source.fingerprint), None)
    if twin is not None:
        return warning(
            NAME,
            f"it asks for account {twin}'s token: whoever may look could speak to the API with it",
            "give the page a token of its own: openssl rand -hex 24",
        )
    file = settings.token_file.expanduser() if settings.token is None and settings.token_file else None
    if file is not None and readable_by_all(file):
        return warning(NAME, f"every user of this host can read {file}", f"chmod 600 {file}, owned by the worker")
    if not is_loopback(place[0]):
        return warning(
            NAME,
            f"other hosts can reach {settings.listen}, and over http the token travels in the clear",
            "listen on 127.0.0.1:9464 and look by ssh -L 9464:127.0.0.1:9464 HOST or a proxy with TLS; with a proxy "
            "elsewhere, let nobody else get there",
        )
    return ok(NAME, f"its token is {'in ' + str(file) if file else 'in the settings themselves'}")
