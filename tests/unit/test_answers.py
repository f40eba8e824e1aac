"""What an answer means besides its status: waits, the budget, and the API's words to a rejection."""

from __future__ import annotations

import json
import math
import zlib
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tests.support.packing import gzipped
from worker.answers import ANSWER_MAX_BYTES, MESSAGES_MAX_BYTES, Answer, budget, understood
from worker.outcome import Outcome, Rejected, Retry, Synced, Throttled

TOKEN = "tok-5f0e1c"
NOTE = "Mrs Miller has the flu"
NOW = 1_800_000_000.25
NOW_TEXT = formatdate(int(NOW), usegmt=True)


def outcome_of(status: int, body: Any = b"", *headers: tuple[str, str]) -> Outcome:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return understood(Answer(status=status, headers=CIMultiDict(headers), body=raw), token=TOKEN, wall_s=NOW)


# -- how long to wait ------------------------------------------------------------------------------------------------


def hints(*headers: tuple[str, str]) -> tuple[float, ...]:
    outcome = outcome_of(429, b"", *headers)
    assert isinstance(outcome, Throttled)
    return outcome.hints_s


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0.5", 0.5),
        ("007", 7.0),
        ("99999999999999999999", 1e20),
        (formatdate(NOW + 90, usegmt=True), 89.75),
        ("Sunday, 15-Jan-27 08:01:30 GMT", 89.75),
        ("Fri Jan 15 08:01:30 2027", 89.75),
        ("Wed, 21 Oct 9998 07:28:00 GMT", 251564570879.75),
        (formatdate(NOW - 90, usegmt=True), None),
        ("Mon, 01 Jan 0001 00:00:00 GMT", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("Mon, 99 Foo 2027 99:99:99 +999999999999", None),
        ("0", None),
        ("0.0", None),
        ("-5", None),
        ("+5", None),
        ("5s", None),
        ("1e3", None),
        ("1_000", None),
        ("٣", None),
        ("nan", None),
        ("inf", None),
        ("9" * 5000, None),
        ("soon", None),
        ("7, 8", None),
        ("\ud83d\udcff", None),
        ("", None),
    ],
)
def test_retry_after(value: str, wait_s: float | None) -> None:
    """Seconds or an HTTP date, in any of its forms; nothing, zero, the past and nonsense are no hint."""
    assert hints(("Retry-After", value)) == pytest.approx(() if wait_s is None else (wait_s,))


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (str(int(NOW) + 60), 59.75),
        (f"{NOW + 60}", 60.0),
        (str(int(NOW) * 1000), 1_798_200_000_000 - 0.25 + 0.0),
        (str(int(NOW) - 1), None),
        ("42", None),
        ("0", None),
        ("-1", None),
        ("nan", None),
        ("9" * 5000, None),
        (NOW_TEXT, None),
        ("", None),
    ],
)
def test_x_rate_limit_reset(value: str, wait_s: float | None) -> None:
    """Unix time; what is over is no hint, and milliseconds are absurd, which policy has to see."""
    assert hints(("X-RateLimit-Reset", value)) == pytest.approx(() if wait_s is None else (wait_s,))


@pytest.mark.parametrize("off_s", [-3600, -60, 0, 60, 3600])
def test_a_clock_that_is_wrong_does_no_harm(off_s: int) -> None:
    """Times are held against the answer's own Date: only the API's clock counts."""
    there = int(NOW) + off_s
    date = ("Date", formatdate(there, usegmt=True))
    assert hints(date, ("Retry-After", formatdate(there + 30, usegmt=True))) == (30.0,)
    assert hints(date, ("X-RateLimit-Reset", str(there + 30))) == (30.0,)


@pytest.mark.parametrize("date", ["", "today", "Thu, 01 Jan 1970 00:00:00 GMT", "9" * 5000, formatdate(NOW + 1e6)])
def test_a_date_that_is_no_clock(date: str) -> None:
    """A Date that is nonsense or days away is somebody's constant: our own clock stands in for it."""
    assert hints(("Date", date), ("X-RateLimit-Reset", str(int(NOW) + 30))) == (29.75,)


def test_one_hint_for_each_header() -> None:
    """All that is usable is handed on, whatever stands beside it; which one counts is for policy to say."""
    reset = ("x-ratelimit-reset", str(int(NOW) + 50))
    assert hints(("retry-after", "7"), ("Date", NOW_TEXT), reset) == (7.0, 50.0)
    assert hints(("Retry-After", "soon"), ("Date", NOW_TEXT), reset) == (50.0,)
    assert hints(("Retry-After", "7"), ("Retry-After", "9"), ("X-RateLimit-Reset", "x")) == (7.0, 9.0)
    assert hints() == ()


HEADER_TEXT = st.text(max_size=40) | st.integers().map(str) | st.floats().map(str) | st.datetimes().map(str)


@given(
    st.lists(st.tuples(st.sampled_from(["Retry-After", "X-RateLimit-Reset", "Date", "X-RateLimit-Limit"]), HEADER_TEXT))
)
def test_whatever_the_headers_say(headers: list[tuple[str, str]]) -> None:
    """Hints are above 0 and finite, and counts are whole numbers; nothing raises."""
    assert all(0 < hint < math.inf for hint in hints(*headers))
    limit, remaining = budget(200, CIMultiDict(headers))
    assert limit is None or 1 <= limit < 10**9
    assert remaining is None


# -- the budget ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 299, 301, 400, 401, 404, 422, 429, 499])
def test_the_budget_as_the_api_counts_it(status: int) -> None:
    """Any answer of the API itself tells it."""
    headers = CIMultiDict([("x-ratelimit-limit", "60"), ("X-RateLimit-Remaining", "0")])
    assert budget(status, headers) == (60, 0)


@pytest.mark.parametrize("status", [101, 500, 502, 503, 504, 520, 600, 999])
def test_what_a_gateway_says_of_the_budget(status: int) -> None:
    """A 5xx may be a gateway's, which counts requests of its own."""
    assert budget(status, CIMultiDict([("X-RateLimit-Limit", "60"), ("X-RateLimit-Remaining", "59")])) == (None, None)


@pytest.mark.parametrize(
    "value", ["", "-1", "+1", "1.0", "1e3", "1_0", "٣", "0x10", "1, 2", "nan", "9" * 10, "9" * 5000]
)
def test_odd_counts(value: str) -> None:
    """Only plain digits of a sane length are a count."""
    assert budget(200, CIMultiDict([("X-RateLimit-Limit", value), ("X-RateLimit-Remaining", value)])) == (None, None)


def test_counts_that_contradict_each_other() -> None:
    """The same twice is that; two that differ are nothing; a limit of 0 is none."""
    twice = [("X-RateLimit-Limit", "60"), ("X-RateLimit-Limit", " 60"), ("X-RateLimit-Remaining", "1")]
    assert budget(200, CIMultiDict(twice)) == (60, 1)
    assert budget(200, CIMultiDict([*twice, ("X-RateLimit-Remaining", "2")])) == (60, None)
    assert budget(200, CIMultiDict([("X-RateLimit-Limit", "0"), ("X-RateLimit-Remaining", "007")])) == (None, 7)


# -- words to a rejection --------------------------------------------------------------------------------------------


def messages_of(body: Any, status: int = 422) -> Any:
    outcome = outcome_of(status, body)
    assert isinstance(outcome, Rejected)
    assert NOTE not in f"{outcome!r} {outcome.reason}"
    if outcome.messages is None:
        return None
    assert len(outcome.messages.encode()) <= MESSAGES_MAX_BYTES + 100
    assert "\x00" not in outcome.messages
    assert r"\u0000" not in outcome.messages
    return json.loads(outcome.messages)


@pytest.mark.parametrize("status", [400, 402, 404, 405, 409, 410, 422, 451])
def test_what_the_api_says_is_kept(status: int) -> None:
    """The documented form, of any rejection: the message and the texts field by field, however they are named."""
    body = {"message": NOTE, "errors": {"note": [f"{NOTE} is no note", "no"], "a.0.b": ["ü 😀"]}}
    assert messages_of(body, status) == body


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ({"message": "no"}, {"message": "no", "errors": {}}),
        ({"message": ""}, {"message": "", "errors": {}}),
        ({"message": 5, "errors": {"note": "one"}}, {"message": None, "errors": {"note": ["one"]}}),
        ({"message": ["x"], "errors": {"a": [1, None, "b", ["c"]]}}, {"message": None, "errors": {"a": ["b"]}}),
        ({"message": "no", "errors": ["note"]}, {"message": "no", "errors": {}}),
        ({"message": "no", "errors": {"a": {"b": "c"}, "d": []}}, {"message": "no", "errors": {}}),
        ({"message": "a\x00b", "errors": {"\x00": ["\ud83d"]}}, {"message": "a�b", "errors": {"�": ["�"]}}),
        ({"message": f"bad: Bearer {TOKEN}"}, {"message": "bad: Bearer [token]", "errors": {}}),
    ],
)
def test_only_strings_are_kept(body: Any, kept: Any) -> None:
    """Strings, without what Postgres refuses and without our token; whatever else is there is left out."""
    assert messages_of(body) == kept


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        "no",
        7,
        {"message": None, "errors": None},
        {"message": 1, "errors": {"note": [1]}},
        {"error": NOTE},
        b"",
        b"<html>",
        b"\xff\xfe" + '{"message": "no"}'.encode("utf-16-le"),
        b'{"message": "no", "x": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"message": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_nothing_said(body: Any) -> None:
    """Neither a message nor a text, or no JSON that can be read: none."""
    assert messages_of(body) is None


def test_long_words_are_cut() -> None:
    """Each text, their number, the fields' names and number, and all of it together have a limit."""
    one = messages_of({"message": "m" * 100_000, "errors": {"f" * 1000: ["t" * 1000] * 30}})
    assert (len(one["message"]), one["errors"]) == (500, {"f" * 64: ["t" * 500] * 20})
    many = messages_of({"errors": {f"field_{n}": ["t"] for n in range(1000)}})
    assert len(many["errors"]) == 50
    huge = messages_of({"message": NOTE, "errors": {f"field_{n}": ["😀" * 501] * 3 for n in range(60)}})
    assert huge["message"] == NOTE


def test_a_token_at_the_cut() -> None:
    """No part of the token survives where a text is cut."""
    for before in range(480, 501):
        text = messages_of({"message": TOKEN * 3 + "m" * before + TOKEN * 9})["message"]
        assert TOKEN[:4] not in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(JSON, JSON)
def test_whatever_is_said(message: Any, errors: Any) -> None:
    """There is a rejection, and its words are in the promised form."""
    kept = messages_of({"message": message, "errors": errors})
    if kept is not None:
        assert kept["message"] is None or isinstance(kept["message"], str)
        assert all(isinstance(text, str) for texts in kept["errors"].values() for text in texts)


# -- packed bodies ---------------------------------------------------------------------------------------------------

RESOURCE = b'{"id": "app_1"}'


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzipped(RESOURCE)),
        ("X-GZIP", gzipped(RESOURCE)),
        ("deflate", zlib.compress(RESOURCE)),
        ("identity", RESOURCE),
        ("", RESOURCE),
    ],
)
def test_a_packed_answer_is_unpacked(encoding: str, body: bytes) -> None:
    """Identity was asked for; a gateway that packs all the same does no harm."""
    assert isinstance(outcome_of(200, body, ("Content-Encoding", encoding)), Synced)


@pytest.mark.parametrize(
    ("encoding", "body", "problem"),
    [
        ("br", RESOURCE, "is packed in a way that was not asked for"),
        ("zstd", RESOURCE, "is packed in a way that was not asked for"),
        ("gzip, gzip", gzipped(gzipped(RESOURCE)), "is packed in a way that was not asked for"),
        ("gzip", RESOURCE, "cannot be unpacked"),
        ("gzip", b"", "cannot be unpacked"),
        ("gzip", gzipped(RESOURCE)[:-5], "cannot be unpacked"),
        ("gzip", gzipped(RESOURCE) * 2, "cannot be unpacked"),
        ("deflate", b"\x00" * 99, "cannot be unpacked"),
        ("gzip", gzipped(bytes(20 * ANSWER_MAX_BYTES)), f"has more than {ANSWER_MAX_BYTES} bytes"),
        ("deflate", zlib.compress(bytes(20 * ANSWER_MAX_BYTES)), f"has more than {ANSWER_MAX_BYTES} bytes"),
    ],
)
def test_an_answer_that_cannot_be_unpacked(encoding: str, body: bytes, problem: str) -> None:
    """A 2xx that cannot be read is asked for again; a rejection stands without its words."""
    outcome = outcome_of(200, body, ("Content-Encoding", encoding))
    assert isinstance(outcome, Retry)
    assert outcome.reason == f"200 with an answer that {problem}"
    rejected = outcome_of(422, body, ("Content-Encoding", encoding))
    assert isinstance(rejected, Rejected)
    assert rejected.messages is None
