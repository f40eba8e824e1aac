"""A change's new body: out of a file, standard input or an editor. Never out of an argument: the list of processes
shows those to everybody, and a note is about a patient."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.cli.terminal import beside_an_editor, interruptible
from worker.errors import UsageError


def ask_for_body(file: Path | None, before: Mapping[str, Any] | str) -> dict[str, Any]:
    """The new body: out of `file` (`-`: standard input); without one, what a person makes of the old one in their
    editor, or, where there is no terminal, standard input. `before` is text where it is more than a reader can bear.
    Raises UsageError for what is no JSON object."""
    if file is not None and str(file) != "-":
        try:
            return _parsed(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise UsageError(f"parked edit: cannot read {file}: {reason}") from None
    if file is None and sys.stdin.isatty():
        text = before if isinstance(before, str) else json.dumps(before, indent=2, ensure_ascii=False)
        return _parsed(_edited(text + "\n"), "what you wrote")
    try:
        with interruptible():
            return _parsed(_standard_input(), "standard input")
    except UnicodeDecodeError:
        raise UsageError("parked edit: standard input is not UTF-8; nothing was changed") from None


def _standard_input() -> str:
    """JSON is UTF-8, whatever the terminal speaks."""
    return sys.stdin.buffer.read().decode("utf-8")


def _edited(text: str) -> str:
    editor = (os.environ.get("VISUAL") or os.environ.get("EDITOR") or "").strip() or "vi"
    try:
        command = shlex.split(editor)
    except ValueError:
        raise UsageError(f"parked edit: $EDITOR is no command: {editor}; mend it, or use --file") from None
    # Readable by its owner only, and gone when the editor is closed.
    with beside_an_editor(), tempfile.TemporaryDirectory(prefix="caspen-sync-") as folder:
        path = Path(folder) / "change.json"
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        try:
            ended = subprocess.run([*command, str(path)], check=False)  # noqa: S603  the user's own editor
            edited = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "cannot be read as UTF-8"
            raise UsageError(
                f"parked edit: the editor {editor}: {reason}; $EDITOR names another, or use --file"
            ) from None
    if ended.returncode != 0:
        raise UsageError(f"parked edit: the editor {editor} ended with {ended.returncode}; nothing was changed")
    return edited


def _parsed(text: str, origin: str) -> dict[str, Any]:
    """Says where it is wrong, and never what it says."""
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"parked edit: {origin} is no JSON: {error.msg} ({place}); nothing was changed") from None
    except (ValueError, RecursionError):
        raise UsageError(f"parked edit: {origin} is no JSON that could be sent; nothing was changed") from None
    if not isinstance(body, dict):
        raise UsageError(f'parked edit: {origin} is no JSON object such as {{"note": null}}; nothing was changed')
    return body
