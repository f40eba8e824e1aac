"""Whether a line may become a change, and if not, all that is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as FastUUID  # noqa: N811
from pydantic_core import to_json

from worker.backfill.rows import Reject, Row
from worker.contract import BODY_MAX_BYTES, IdPolicy, Problem, check_appointment_id, check_update

# A key of an index holds some 2,700 bytes, and the account is one of its parts. Ids of the API have 30 characters.
APPOINTMENT_ID_MAX_BYTES = 1_000

# Ids of the API and their like, in which there is nothing to find fault with.
_USUAL_ID = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)

_NO_CHANGES = (Problem("changes", "is missing"),)
# What to_json makes of a character that Postgres cannot hold; or of six harmless ones behind a backslash.
_NUL_AS_JSON = b"\\u0000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspector:
    """What lines are held against. They come from one source, and go to accounts that are configured."""

    accounts: frozenset[str]
    default_account: str | None
    """Of lines that name none; None: each has to name one."""
    ids: IdPolicy

    def inspect(self, line: int, account: object, appointment_id: object, changes: object, raw: bytes) -> Row | Reject:
        """The row that this line makes, or every problem of it. `account`: None where the line names none; `raw`: the
        line, for whoever mends it."""
        if account is None:
            account = self.default_account
        problems = _NO_CHANGES if changes is None else check_update(changes, ids=self.ids)
        usual = isinstance(appointment_id, str) and _USUAL_ID.fullmatch(appointment_id)
        if problems or not usual or account is None or account != self.default_account:
            problems = (*self._of_account(account), *_of_appointment_id(appointment_id), *problems)
        if problems:
            return Reject(line=line, problems=problems, raw=raw)
        return _row(line, account, appointment_id, changes, raw)

    def _of_account(self, account: object) -> tuple[Problem, ...]:
        if isinstance(account, str) and account in self.accounts:
            return ()
        if account is None:
            return (Problem("account", "is missing, and there are several: give --account, or name one in each line"),)
        if not isinstance(account, str):
            return (Problem("account", "must be a string"),)
        return (Problem("account", "is not an account of the configuration ([accounts.NAME])"),)


def _row(line: int, account: Any, appointment_id: Any, changes: Any, raw: bytes) -> Row | Reject:
    """What keeps the contract is a row, unless Postgres or a claim could not hold it."""
    fields = _in_order(tuple(changes))
    body = to_json({name: changes[name] for name in fields})
    if _NUL_AS_JSON in body or len(body) > BODY_MAX_BYTES // 2:
        problems = (*_unstorable(changes), *_oversize(changes))
        if problems:
            return Reject(line=line, problems=problems, raw=raw)
    return Row(
        line=line,
        account=account,
        appointment_id=appointment_id,
        changes=body.decode(),
        fields=fields,
        cleared=tuple([name for name in fields if changes[name] is None]) if None in changes.values() else (),
        digest=_digest(account, appointment_id, body),
    )


def unreadable(line: int, raw: bytes, reason: str) -> Reject:
    """A line of which nothing can be said field by field."""
    return Reject(line=line, problems=(Problem("line", reason),), raw=raw)


def _of_appointment_id(appointment_id: object) -> tuple[Problem, ...]:
    if not isinstance(appointment_id, str):
        return (Problem("appointment_id", "is missing" if appointment_id is None else "must be a string"),)
    if not appointment_id:
        return (Problem("appointment_id", "is empty"),)
    if problem := check_appointment_id(appointment_id):
        return (problem,)
    if len(appointment_id.encode("utf-8", "surrogatepass")) > APPOINTMENT_ID_MAX_BYTES:
        return (Problem("appointment_id", f"must be at most {APPOINTMENT_ID_MAX_BYTES} bytes"),)
    if not appointment_id.isprintable() or appointment_id != appointment_id.strip():
        return (Problem("appointment_id", "must be printable, with no white space around it"),)
    return ()


def _unstorable(changes: Mapping[str, Any]) -> tuple[Problem, ...]:
    return tuple(
        Problem(name, "must hold no NUL character: Postgres cannot store one")
        for name, value in changes.items()
        if isinstance(value, str) and "\0" in value
    )


def _oversize(changes: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Held against the limit that a claim goes by, which is of the text that Postgres writes: with its spaces."""
    if len(json.dumps(changes, ensure_ascii=False).encode()) <= BODY_MAX_BYTES:
        return ()
    return (Problem("changes", f"must be at most {BODY_MAX_BYTES} bytes"),)


def _digest(account: str, appointment_id: str, body: bytes) -> UUID:
    # Neither account nor appointment can hold a NUL, so no two lines that differ are the same bytes here.
    said = b"%b\0%b\0%b" % (account.encode(), appointment_id.encode(), body)
    # asyncpg's own kind, which it makes and writes several times as fast as Python's.
    digest: UUID = FastUUID(blake2b(said, digest_size=16).digest())
    return digest


@lru_cache
def _in_order(fields: tuple[str, ...]) -> tuple[str, ...]:
    """Sorted. The lines of a file name few combinations, and so share these."""
    return tuple(sorted(fields))
