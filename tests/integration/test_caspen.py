"""The HTTP client against a server that answers: each row of the outcome table, by status code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.rawserver import answer, raw_server, saying
from worker import clock
from worker.caspen import Caspen
from worker.outcome import Exchange, Outcome, Refused, Rejected, Retry, Synced, Throttled, Unknown
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings

TOKEN = "tok-5f0e1c"
SECRET = "Mrs Miller has the flu"
RESOURCE = json.dumps({"id": "app_1", "note": "ok", "new_field": {"a": [1, None]}}).encode()


async def send(
    base_url: str,
    body: dict[str, Any] | None = None,
    *,
    appointment_id: str = "app_1",
    timeout_s: float = 10,
    token: str = TOKEN,
) -> Exchange:
    async with Caspen(base_url, timeout_s=timeout_s) as caspen:
        request = caspen.request(appointment_id, {"note": SECRET} if body is None else body)
        exchange = await caspen.send(request, token=token, deadline=clock.now() + 60)
    assert exchange.started_at <= exchange.ended_at <= clock.now()
    assert token not in repr(exchange)
    return exchange


async def outcome_of(raw: bytes) -> Outcome:
    """What one request comes to when this is the answer."""
    async with raw_server(saying(raw)) as server:
        outcome = (await send(server.base_url)).outcome
        assert len(server.requests) == 1
    assert isinstance(outcome, Synced) or SECRET not in repr(outcome)
    return outcome


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "299 New"])
async def test_2xx_with_a_resource_is_synced(status: str) -> None:
    """Any 2xx with a resource: synced, with the whole answer, fields that nobody documented included."""
    outcome = await outcome_of(answer(status, RESOURCE, "Content-Type: application/json"))
    assert isinstance(outcome, Synced)
    assert outcome.status == int(status[:3])
    assert (outcome.resource.id, outcome.resource.note) == ("app_1", "ok")
    assert json.loads(outcome.text) == json.loads(RESOURCE)


@pytest.mark.parametrize("kind", ["text/html; charset=bogus", "application/json; charset=latin-1", "nonsense"])
async def test_a_resource_is_read_whatever_its_content_type_says(kind: str) -> None:
    """JSON is UTF-8, whatever the header claims."""
    body = json.dumps({"id": "é"}, ensure_ascii=False).encode()
    outcome = await outcome_of(answer("200 OK", body, f"Content-Type: {kind}"))
    assert isinstance(outcome, Synced)
    assert outcome.resource.id == "é"


async def test_204_is_done_but_not_told() -> None:
    """204: sent again later, to learn what came of it."""
    outcome = await outcome_of(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert isinstance(outcome, Retry)
    assert outcome.status == 204


@pytest.mark.parametrize(
    "body",
    [b"", b"  \r\n", b"null", b"[]", b"{}", b'"app_1"', b'{"id": null}', b'{"id": "a"', b"<html>", b'{"id": []}'],
)
async def test_2xx_without_a_resource_is_retried(body: bytes) -> None:
    """A 2xx whose body is no AppointmentResource: retry, with the status."""
    outcome = await outcome_of(answer("200 OK", body))
    assert isinstance(outcome, Retry)
    assert outcome.status == 200


@pytest.mark.parametrize("status", [400, 402, 406, 409, 411, 412, 413, 414, 415, 418, 422, 423, 428, 431, 451, 499])
async def test_other_4xx_are_rejected(status: int) -> None:
    """The API will not take this body: rejected, and a part of the body may fare better."""
    outcome = await outcome_of(answer(f"{status} No", b'{"message": "no"}'))
    assert isinstance(outcome, Rejected)
    assert (outcome.status, outcome.whole) == (status, False)
    assert outcome.reason.startswith(str(status))


@pytest.mark.parametrize("status", [404, 405, 410])
async def test_a_wrong_address_is_rejected_as_a_whole(status: int) -> None:
    """It is the address that was refused: sending the body in parts would be of no use."""
    outcome = await outcome_of(answer(f"{status} No", b'{"message": "no"}'))
    assert isinstance(outcome, Rejected)
    assert (outcome.status, outcome.whole) == (status, True)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token(status: int) -> None:
    """401 and 403: a fault of the account; the token does not show up in the reason, even when the answer quotes it."""
    outcome = await outcome_of(answer(f"{status} {TOKEN}", json.dumps({"message": f"bad token {TOKEN}"}).encode()))
    assert isinstance(outcome, Refused)
    assert outcome.status == status


@pytest.mark.parametrize("status", [408, 425, 500, 503])
async def test_answered_but_not_done_is_retried(status: int) -> None:
    """These say that the update was not done."""
    outcome = await outcome_of(answer(f"{status} Later", b"oops"))
    assert isinstance(outcome, Retry)
    assert outcome.status == status


@pytest.mark.parametrize(
    "status", [501, 502, 504, 505, 507, 511, 520, 521, 522, 523, 524, 525, 526, 527, 530, 599, 600, 999]
)
async def test_a_gateway_or_an_unheard_of_status_is_unknown(status: int) -> None:
    """A gateway does not know what became of the request behind it, and an unheard-of status tells nothing."""
    outcome = await outcome_of(answer(f"{status} Hm"))
    assert isinstance(outcome, Unknown)
    assert outcome.status == status


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "304 Not Modified", "307 Temporary", "308 Permanent"]
)
async def test_a_redirect_is_rejected_and_never_followed(status: str) -> None:
    """3xx: rejected; the server that Location names is never contacted, so neither token nor note gets there."""
    async with raw_server(saying(answer("200 OK", RESOURCE))) as elsewhere:
        location = f"Location: {elsewhere.base_url}/appointments/app_1"
        outcome = await outcome_of(answer(status, b"", location))
        assert elsewhere.connections == 0
    assert isinstance(outcome, Rejected)
    assert (outcome.status, outcome.whole) == (int(status[:3]), True)
    assert str(elsewhere.port) not in outcome.reason


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("Retry-After: 7", 7.0),
        ("Retry-After: 0.5", 0.5),
        ("retry-after:  90  ", 90.0),
        ("Retry-After: 0", None),
        ("Retry-After: -5", None),
        ("Retry-After: nan", None),
        ("Retry-After: inf", None),
        ("Retry-After: soon", None),
        ("Retry-After:", None),
        ("X-Nothing: here", None),
    ],
)
async def test_429_waits_as_told(header: str, wait_s: float | None) -> None:
    """429: throttled, for the seconds that Retry-After asks; nothing, zero and nonsense are no hint."""
    outcome = await outcome_of(answer("429 Too Many Requests", b'{"message": "Too Many Attempts."}', header))
    assert isinstance(outcome, Throttled)
    assert (outcome.status, outcome.hints_s) == (429, () if wait_s is None else (wait_s,))


async def test_422_names_the_fields_and_nothing_else() -> None:
    """Of a 422 only the names of fields that the contract knows are kept; its sentences may quote the body."""
    errors = {"room_id": [SECRET], "resource_ids.0": [SECRET], f"{SECRET}": ["no"], "note": {"deep": SECRET}}
    outcome = await outcome_of(answer("422 No", json.dumps({"message": SECRET, "errors": errors}).encode()))
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "422 validation failed: note, resource_ids, room_id"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[1]",
        b"null",
        b'{"errors": null}',
        b'{"errors": 7}',
        b'{"errors": [[1]]}',
        b'{"message": "no"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"errors": {"note": "' + b"x" * 2_000_000 + b'"}}',
    ],
)
async def test_422_in_any_other_form_is_still_rejected(body: bytes) -> None:
    """A 422 that cannot be read is a 422 all the same."""
    outcome = await outcome_of(answer("422 No", body))
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "422 validation failed"


async def test_the_sandbox_takes_what_the_client_sends() -> None:
    """Client and sandbox read the API's page in the same way."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,))) as sandbox:
        outcome = (await send(sandbox.base_url, {"note": None, "room_id": 7, "resource_ids": []})).outcome
        assert isinstance(outcome, Synced)
        assert (outcome.resource.room_id, outcome.resource.note) == ("7", None)
        assert sandbox.log[0].body == {"note": None, "room_id": 7, "resource_ids": []}


async def test_what_the_sandbox_refuses() -> None:
    """Unknown token, forbidden token, unknown appointment, unknown room, and one request too many."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), forbidden=("locked-out",), limit=2)) as sandbox:
        unknown = (await send(sandbox.base_url, token="revoked")).outcome
        assert isinstance(unknown, Refused)
        assert unknown.status == 401
        forbidden = (await send(sandbox.base_url, token="locked-out")).outcome
        assert isinstance(forbidden, Refused)
        assert forbidden.status == 403
        nobody = (await send(sandbox.base_url, appointment_id="nobody")).outcome
        assert isinstance(nobody, Rejected)
        assert (nobody.status, nobody.whole) == (404, True)
        room = (await send(sandbox.base_url, {"room_id": NO_SUCH_ROOM})).outcome
        assert isinstance(room, Rejected)
        assert (room.reason, room.whole) == ("422 validation failed: room_id", False)
        throttled = (await send(sandbox.base_url)).outcome
        assert isinstance(throttled, Throttled)
        assert throttled.hints_s
        # Both are whole seconds: the reset is rounded up, and the Date that it is held against is rounded down.
        assert 0 < min(throttled.hints_s) <= max(throttled.hints_s) <= 62


FAULTS: list[tuple[str, type[Outcome], int | None, bool]] = [
    ("http_500", Retry, 500, False),
    ("http_502", Unknown, 502, False),
    ("http_503", Retry, 503, False),
    ("reset_before", Unknown, None, False),
    ("reset_after", Unknown, None, True),
    ("slow", Unknown, None, False),
    ("cut", Retry, 200, True),
    ("garbled", Retry, 200, True),
    ("no_content", Retry, 204, True),
    ("late_apply", Unknown, 504, False),
]


@pytest.mark.parametrize(("fault", "kind", "status", "applied"), FAULTS)
async def test_the_sandbox_s_faults(fault: str, kind: type[Outcome], status: int | None, *, applied: bool) -> None:
    """Each fault comes to the outcome that the table has for it; one request each, whatever goes wrong."""
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), faults={fault: 1.0}, slow_s=30, late_s=30)) as sandbox:
        outcome = (await send(sandbox.base_url, timeout_s=0.3 if fault == "slow" else 10)).outcome
        assert isinstance(outcome, kind)
        assert outcome.status == status
        assert [entry.applied for entry in sandbox.log] == [applied]
