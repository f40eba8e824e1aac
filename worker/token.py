"""Where an account's token comes from: a file that may change under us, or a value out of the environment."""

from __future__ import annotations

import hashlib
from pathlib import Path
from stat import S_ISREG

from worker.config import AccountSettings
from worker.errors import ConfigError
from worker.privacy import withhold


class TokenSource:
    """Hands out one account's token. Its repr and its errors name the account and the file, never the token."""

    def __init__(self, account: str, settings: AccountSettings) -> None:
        """Raises ConfigError when the account has no token that could be used."""
        self._account = account
        self._file: Path | None = None
        self._stamp: tuple[int, int, int] | None = None
        if settings.token is not None:
            self._hold(self._checked(settings.token.get_secret_value(), "token"))
        elif settings.token_file is not None:
            self._file = settings.token_file.expanduser()
            self._hold("")
            self.refresh()
        else:
            raise ConfigError(
                f"accounts.{account}: has no token; set token_file in the config, "
                f"or CASPEN_SYNC_ACCOUNTS__{account.upper()}__TOKEN"
            )

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
        key = f"accounts.{self._account}.token_file"
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
        if not token:
            raise ConfigError(f"accounts.{self._account}.{origin}: is empty")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(f"accounts.{self._account}.{origin}: must be one word of printable ASCII characters")
        return token

    def __repr__(self) -> str:
        return f"TokenSource(account={self._account!r})"
