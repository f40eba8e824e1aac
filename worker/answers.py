"""What an answer of the API means: status, headers and body in, one Outcome out. Knows no network.

An answer is somebody else's text. Nothing in it raises, and of its words none but `Rejected.messages` keeps any.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol

from pydantic import ValidationError

from worker.contract import UPDATE_FIELDS, AppointmentResource
from worker.outcome import Outcome, Refused, Rejected, Retry, Synced, Throttled, Unknown
from worker.records import record

ANSWER_MAX_BYTES = 1_048_576

# What can go wrong while a body is read, in words that follow "an answer that".
TOO_LONG = f"has more than {ANSWER_MAX_BYTES} bytes"
CUT_SHORT = "was cut short"

# What a gateway says when it does not know what became of the request behind it. 52x are a large gateway's own.
_GATEWAY = {502, 504, *range(520, 528)}
_NOT_DONE = {408, 425, 500, 503}
_THE_TOKEN = {401, 403}
_THE_ADDRESS = {404, 405, 410}

_MEANING = {
    400: "cannot be processed",
    401: "token missing or invalid",
    403: "token not allowed to do this",
    404: "not found: no such appointment, or api.base_url is wrong",
    409: "conflicts with the current state",
    422: "validation failed",
    500: "server-side fault",
    502: "upstream fault",
    503: "temporarily unavailable",
}

# How much is kept of what the API says to a request that it rejects.
TEXT_MAX_LENGTH = 500
TEXTS_MAX = 20
FIELDS_MAX = 50
FIELD_NAME_MAX_LENGTH = 64
MESSAGES_MAX_BYTES = 32_768

# A Date further from our own clock than this is somebody's constant and no clock.
DATE_TOLERANCE_S = 86_400.0

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_COUNT_MAX_LENGTH = 9
_HTTP_DATE_MAX_LENGTH = 64
_NOT_FOR_POSTGRES = re.compile("[\x00\ud800-\udfff]")


class Headers(Protocol):
    """Headers by name, whatever the case of its letters; one that came twice has two values."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """All values of a header, or the default."""
        ...


@record
class Answer:
    """One answer, as far as it was read."""

    status: int
    headers: Headers
    body: bytes = b""
    fault: str | None = None
    """TOO_LONG or CUT_SHORT, when that came of reading the body; it is then of no use."""


class _Unreadable(Exception):
    """The body cannot be read; the text says how it failed, in words that follow "an answer that"."""


def wants_body(status: int) -> bool:
    """Whether anything follows from the body of an answer of this status."""
    return 200 <= status < 300 or _is_rejection(status)


def understood(answer: Answer, *, token: str, wall_s: float) -> Outcome:
    """The outcome of a request that was sent with `token` and answered like this, `wall_s` being the Unix time now."""
    status = answer.status
    if 200 <= status < 300:
        return _resource(answer)
    reason = f"{status} {_MEANING.get(status, 'unexpected status')}"
    if status == 429:
        return Throttled(status=status, hints_s=_hints(answer.headers, wall_s))
    if status in _THE_TOKEN:
        return Refused(status=status, reason=reason)
    if status in _NOT_DONE:
        return Retry(status=status, reason=reason)
    if 300 <= status < 400:
        return Rejected(status=status, reason=f"{status} redirect, which is not followed", whole=True)
    if _is_rejection(status):
        said = _json_object(answer)
        named = ", ".join(_fields_named(said))
        return Rejected(
            status=status,
            reason=f"{reason}: {named}" if named else reason,
            whole=status in _THE_ADDRESS,
            messages=_messages(said, token),
        )
    # A gateway's answer, or whatever else a server may say (101, 501, 505, 599): it tells nothing about the update.
    return Unknown(status=status, reason=reason)


def budget(status: int, headers: Headers) -> tuple[int | None, int | None]:
    """X-RateLimit-Limit and X-RateLimit-Remaining, where they are sane and the API's own: a 5xx may be a gateway's."""
    if not 200 <= status < 500:
        return None, None
    # A limit of 0 is none: nobody could send anything.
    return _count(headers, "X-RateLimit-Limit") or None, _count(headers, "X-RateLimit-Remaining")


def date_told(headers: Headers) -> float | None:
    """Unix time by the clock of whoever answered; None when the answer has no Date, or one that is none."""
    return next(map(_http_date, headers.getall("Date", [])), None)


def _is_rejection(status: int) -> bool:
    return 400 <= status < 500 and status not in _NOT_DONE | _THE_TOKEN | {429}


# -- bodies ----------------------------------------------------------------------------------------------------------


def _resource(answer: Answer) -> Outcome:
    """A 2xx means that the update is done; without a resource it is sent again, to learn what came of it."""
    status = answer.status
    try:
        text = _text(answer)
    except _Unreadable as error:
        return Retry(status=status, reason=f"{status} with an answer that {error}")
    if not text.strip():
        return Retry(status=status, reason=f"{status} without an answer")
    try:
        resource = AppointmentResource.model_validate_json(text)
    except (ValidationError, RecursionError):
        return Retry(status=status, reason=f"{status} with an answer that is no AppointmentResource")
    return Synced(status=status, resource=resource, text=text)


def _json_object(answer: Answer) -> dict[str, Any]:
    """The JSON object of the body; an empty one for any other body."""
    try:
        said = json.loads(_text(answer))
    except (_Unreadable, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _text(answer: Answer) -> str:
    """The body, unpacked. JSON is UTF-8, whatever Content-Type claims. Raises _Unreadable."""
    if answer.fault:
        raise _Unreadable(answer.fault)
    try:
        return _unpacked(answer).decode("utf-8")
    except UnicodeDecodeError:
        raise _Unreadable("is not UTF-8") from None


def _unpacked(answer: Answer) -> bytes:
    """The body without its Content-Encoding. Identity was asked for, but some gateways pack whatever passes them; what
    unpacks to more than ANSWER_MAX_BYTES is never held as a whole."""
    encoding = ", ".join(answer.headers.getall("Content-Encoding", [])).strip().lower()
    if encoding in ("", "identity"):
        return answer.body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise _Unreadable("is packed in a way that was not asked for")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by their first bytes
    try:
        body = unpacker.decompress(answer.body, ANSWER_MAX_BYTES + 1)
    except zlib.error:
        raise _Unreadable("cannot be unpacked") from None
    if len(body) > ANSWER_MAX_BYTES:
        raise _Unreadable(TOO_LONG)
    if not unpacker.eof or unpacker.unused_data:
        raise _Unreadable("cannot be unpacked")
    return body


# -- what is said to a rejected request ------------------------------------------------------------------------------


def _fields_named(said: dict[str, Any]) -> list[str]:
    """The fields that a 422 names, in the documented form. Only the contract's own names: the rest is free text."""
    errors = said.get("errors")
    if not isinstance(errors, dict | list):
        return []
    return sorted({str(key).split(".")[0] for key in errors if isinstance(key, str)} & UPDATE_FIELDS)


def _messages(said: dict[str, Any], token: str) -> str | None:
    """`{"message": …, "errors": {field: [text, …]}}` as JSON that Postgres will take; None when nothing was said."""
    message = said.get("message")
    kept: dict[str, Any] = {"message": _clean(message, token) if isinstance(message, str) else None, "errors": {}}
    room = MESSAGES_MAX_BYTES - _size(kept)
    for field, texts in _errors(said.get("errors"), token):
        room -= _size({field: texts})
        if room < 0:
            break
        kept["errors"].setdefault(field, texts)
    if kept["message"] is None and not kept["errors"]:
        return None
    return json.dumps(kept, ensure_ascii=False)


def _errors(errors: object, token: str) -> Iterator[tuple[str, list[str]]]:
    """Field by field what is said to it; fields to which no words are said are left out."""
    if not isinstance(errors, dict):
        return
    for field, said in islice(errors.items(), FIELDS_MAX):
        items = said if isinstance(said, list) else [said]
        texts = [_clean(item, token) for item in islice((item for item in items if isinstance(item, str)), TEXTS_MAX)]
        if texts:
            yield _clean(field, token)[:FIELD_NAME_MAX_LENGTH], texts


def _clean(text: str, token: str) -> str:
    """Cut to size, and without what jsonb refuses. A server that quotes our headers does not get the token stored."""
    # Before the cut, or half a token could be left of one that stands across it.
    without_token = text.replace(token, "[token]") if token else text
    return _NOT_FOR_POSTGRES.sub("\ufffd", without_token[:TEXT_MAX_LENGTH])


def _size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


# -- headers ---------------------------------------------------------------------------------------------------------


def _hints(headers: Headers, wall_s: float) -> tuple[float, ...]:
    """Seconds to wait, out of Retry-After and X-RateLimit-Reset. Nothing, zero, the past and nonsense are no hint."""
    sent_at = date_told(headers)
    if sent_at is None or abs(sent_at - wall_s) > DATE_TOLERANCE_S:
        sent_at = wall_s
    waits: list[float] = []
    for value in headers.getall("Retry-After", []):
        seconds, date = _seconds(value), _http_date(value)
        if seconds is not None:
            waits.append(seconds)
        elif date is not None:
            waits.append(date - sent_at)
    waits.extend(at - sent_at for at in map(_seconds, headers.getall("X-RateLimit-Reset", [])) if at is not None)
    return tuple(wait for wait in waits if 0 < wait < math.inf)


def _seconds(text: str) -> float | None:
    """A plain number that is not negative; infinite when it has thousands of digits."""
    return float(text) if _SECONDS.fullmatch(text.strip()) else None


@lru_cache(maxsize=16)  # within a second, every answer has the same
def _http_date(text: str) -> float | None:
    """Unix time of an HTTP date in any of its three forms, all of which mean UTC."""
    if len(text) > _HTTP_DATE_MAX_LENGTH:
        return None
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _count(headers: Headers, name: str) -> int | None:
    """A whole number of plain digits; None when the header is absent, odd, or there twice and at odds with itself."""
    values = {value.strip() for value in headers.getall(name, [])}
    if len(values) != 1:
        return None
    value = values.pop()
    return int(value) if value.isascii() and value.isdigit() and len(value) <= _COUNT_MAX_LENGTH else None
