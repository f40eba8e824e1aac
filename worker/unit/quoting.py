"""How a path is written in a unit and in a crontab, so that it comes out as it is."""

from __future__ import annotations

import shlex

from worker.errors import ConfigError


def word(text: str) -> str:
    """For settings that are split into words: ExecStart, Environment, BindReadOnlyPaths. Raises ConfigError.

    A $ is left as it is: ExecStart has to be told to do so too, by a colon before its first word.
    """
    escaped = _specifier_free(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if set(escaped) & set(" '\"\\:;") else escaped


def program(path: str) -> str:
    """The same for the first word of ExecStart. Raises ConfigError for what systemd starts nothing of."""
    if set(path) & set("'\"\\"):
        raise ConfigError(
            f"{path}: systemd starts no program whose path has a quote or a backslash; install it elsewhere"
        )
    return word(path)


def line(text: str) -> str:
    """For settings that take the rest of the line as it is: LoadCredential, WorkingDirectory. Raises ConfigError."""
    if text.endswith(("\\", " ")):
        raise ConfigError(f"{text}: ends in a way that no unit can hold; use another name")
    return _specifier_free(text)


def shell(text: str) -> str:
    """For cron, which makes a line feed of % and may swallow a backslash, and for its shell. Raises ConfigError."""
    if "\\" in text:
        raise ConfigError(f"{text}: has a backslash, which no crontab can hold; use another name")
    return shlex.quote(_printable(text)).replace("%", "\\%")


def _specifier_free(text: str) -> str:
    return _printable(text).replace("%", "%%")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ConfigError(f"{text}: has a character that cannot be printed; use another name")
    return text
