"""Where a token comes from, an account's or the page's: a file that may change under us, or a value out of the
environment."""

from __future__ import annotations

import hashlib
from pathlib import Path
from stat import S_ISREG

from worker.addresses import is_loopback, parse_listen
from worker.config import ENV_PREFIX, AccountSettings, HttpSettings
from worker.errors import ConfigError
from worker.privacy import withhold

# A shorter one could be guessed.
PAGE_TOKEN_LENGTH = 16
_MAKE_ONE = "; make one: openssl rand -hex 24"


class TokenSource:
    """Hands out one token. Its repr and its errors name the section of the settings and the file, never the token."""

    def __init__(
        self, section: str, settings: AccountSettings | HttpSettings, *, at_least: int = 1, mend: str = ""
    ) -> None:
        """`section`: where the settings stand, such as accounts.default. `at_least`: so many characters it must have.
        `mend`: what is said at the end of an error about what the token is like.

        Raises ConfigError when there is no token that could be used.
        """
        self._section = section
        self._at_least = at_least
        self._mend = mend
        self._file: Path | None = None
        self._stamp: tuple[int, int, int] | None = None
        if settings.token is not None:
            self._hold(self._checked(settings.token.get_secret_value(), "token"))
        elif settings.token_file is not None:
            self._file = settings.token_file.expanduser()
            self._hold("")
            self.refresh()
        else:
            variable = f"{ENV_PREFIX}{section.replace('.', '__', 1).upper()}__TOKEN"
            raise ConfigError(f"{section}: has no token; set token_file in the config, or {variable}")

    @property
    def token(self) -> str:
        """As it was read last."""
        return self._token

    @property
    def fingerprint(self) -> str:
        """By which one token is told from another, and nothing else."""
        return self._fingerprint

    def refresh(self, *, force: bool = False) -> None:
        """Reads the file again if it changed, or, with `force`, anyhow.

        Raises ConfigError when it cannot be read or holds no token; the last token is kept then.
        """
        if self._file is None:
            return
        key = f"{self._section}.token_file"
        try:
            stat = self._file.stat()
            if not S_ISREG(stat.st_mode):
                # Reading a pipe would hold up everything.
                raise ConfigError(f"{key}: cannot read {self._file}: is no regular file")
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp == self._stamp and not force:
                return
            text = self._file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is no file of UTF-8 text"
            raise ConfigError(f"{key}: cannot read {self._file}: {reason}") from None
        self._hold(self._checked(text.strip(), f"token_file ({self._file})"))
        self._stamp = stamp

    def _hold(self, token: str) -> None:
        self._token = token
        # Asked for with each request, so it is made with each token.
        self._fingerprint = hashlib.sha256(f"caspen-sync {token}".encode()).hexdigest()[:16]

    def _checked(self, token: str, origin: str) -> str:
        withhold(token)
        fault = None
        if not token:
            fault = "is empty"
        elif not token.isascii() or not token.isprintable() or " " in token:
            fault = "must be one word of printable ASCII characters"
        elif len(token) < self._at_least:
            fault = f"must have {self._at_least} characters or more"
        if fault:
            raise ConfigError(f"{self._section}.{origin}: {fault}{self._mend}")
        return token

    def __repr__(self) -> str:
        return f"TokenSource({self._section!r})"


def account_token(name: str, settings: AccountSettings) -> TokenSource:
    """The token of the account of this name. Raises ConfigError when it has none that could be used."""
    return TokenSource(f"accounts.{name}", settings)


def read_page_token(settings: HttpSettings) -> TokenSource | None:
    """What the page at `http.listen` asks people for; None when it asks for nothing, or is not there.

    Raises ConfigError when the token cannot be read or could be guessed, and when there is none although other hosts
    reach the page.
    """
    place = parse_listen(settings.listen)
    if place is None:
        return None
    if settings.token is None and settings.token_file is None:
        if is_loopback(place[0]):
            return None
        raise ConfigError(
            f"http.listen: other hosts can reach {settings.listen}, and without a token all of them could look; "
            "set http.token_file, or listen on 127.0.0.1:9464"
        )
    return TokenSource("http", settings, at_least=PAGE_TOKEN_LENGTH, mend=_MAKE_ONE)
