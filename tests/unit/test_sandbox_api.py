"""The API's side over HTTP: tokens, throttle, answers, paths and pages."""

from __future__ import annotations

import asyncio
import io
import math
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from tests.support.sandbox import AUTH, running
from tests.support.waiting import eventually
from worker.sandbox import Sandbox

if TYPE_CHECKING:
    pass


async def post(
    sandbox: Sandbox, session: aiohttp.ClientSession, changes: Any = None, *, path: str = "app_1", **options: Any
) -> tuple[int, Any, Any]:
    """Status, body and headers."""
    url = URL(f"{sandbox.base_url}/appointments/{path}", encoded=True)
    if "data" not in options:
        options["json"] = {"note": "x"} if changes is None else changes
    async with session.post(url, **options) as answer:
        return answer.status, await answer.json(), answer.headers


async def get(sandbox: Sandbox, session: aiohttp.ClientSession, path: str, **options: Any) -> tuple[int, Any, Any]:
    """Status, body and headers."""
    url = URL(f"{sandbox.base_url}{path}", encoded=True)
    async with session.get(url, **options) as answer:
        return answer.status, await answer.json(), answer.headers


async def test_an_update_is_answered_with_the_whole_resource() -> None:
    """200 with the resource as it now is, rate headers, and the same again when read back."""
    async with running(limit=60) as (sandbox, session):
        status, body, headers = await post(sandbox, session, {"note": "hello", "room_id": 7})
        assert status == 200
        assert (body["id"], body["note"], body["room_id"]) == ("app_1", "hello", "7")
        assert "updated_at" in body
        assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("60", "59")
        assert headers["Content-Type"].startswith("application/json")
        assert "Retry-After" not in headers
        assert (await get(sandbox, session, "/appointments/app_1"))[:2] == (200, body)


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", "Basic sandbox", "sandbox"])
async def test_an_unknown_token_is_401_and_does_not_count(authorization: str | None) -> None:
    """No token or a wrong one: 401 with the documented body, no rate headers, and nothing counted."""
    async with running(limit=1) as (sandbox, _), aiohttp.ClientSession() as session:
        headers = {} if authorization is None else {"Authorization": authorization}
        for _ in range(3):
            status, body, answered = await post(sandbox, session, headers=headers)
            assert (status, body) == (401, {"message": "Unauthenticated."})
            assert "X-RateLimit-Limit" not in answered
        assert (await post(sandbox, session, headers=AUTH))[0] == 200


async def test_a_forbidden_token_is_403_and_counts() -> None:
    """A known token that may not do this is answered 403, with rate headers; past its limit it is throttled first."""
    async with running(limit=1, forbidden=("other",)) as (sandbox, session):
        other = {"Authorization": "Bearer other"}
        status, body, headers = await post(sandbox, session, headers=other)
        assert (status, headers["X-RateLimit-Remaining"]) == (403, "0")
        assert body["message"]
        assert (await post(sandbox, session, headers=other))[0] == 429
        assert sandbox.appointments == {}


@pytest.mark.parametrize("throttle", ["fixed", "rolling", "rolling-strict", "bucket"])
async def test_past_the_limit_the_answer_is_the_documented_429(throttle: str) -> None:
    """429 with Retry-After in whole seconds rounded up, X-RateLimit-Reset as Unix time, and the documented body."""
    async with running(limit=2, window_s=60.0, throttle=throttle) as (sandbox, session):
        before = time.time()
        assert [(await post(sandbox, session))[0] for _ in range(2)] == [200, 200]
        status, body, headers = await post(sandbox, session)
        after = time.time()
        wait_s = 30 if throttle == "bucket" else 60
        assert (status, body) == (429, {"message": "Too Many Attempts."})
        assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("2", "0")
        assert wait_s - (after - before) <= int(headers["Retry-After"]) <= wait_s
        assert math.floor(before) + wait_s <= int(headers["X-RateLimit-Reset"]) <= math.ceil(after) + wait_s
        assert [entry.throttled for entry in sandbox.log] == [False, False, True]


async def test_every_call_counts_and_each_token_for_itself() -> None:
    """Updates, reads, lists and misses share one count per token, and a token's count is its own."""
    async with running(limit=4, tokens=("sandbox", "second")) as (sandbox, session):
        await post(sandbox, session)
        await get(sandbox, session, "/appointments/app_1")
        await get(sandbox, session, "/appointments")
        assert (await get(sandbox, session, "/nowhere"))[2]["X-RateLimit-Remaining"] == "0"
        assert (await get(sandbox, session, "/appointments/app_1"))[0] == 429
        assert (await post(sandbox, session, headers={"Authorization": "Bearer second"}))[0] == 200


async def test_the_throttle_judges_when_the_head_is_in() -> None:
    """A request whose body is slow takes its place when its head comes in, before one that came later."""
    async with running(limit=1) as (sandbox, session):
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(sandbox.base_url).port)
        body = b'{"note": "first"}'
        head = "POST /v1/appointments/app_1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sandbox"
        writer.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        await eventually(lambda: sandbox.log, every_s=0.005)
        assert (await post(sandbox, session))[0] == 429
        assert sandbox.log[0].in_flight
        writer.write(body)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        await writer.wait_closed()


async def test_refusals_have_the_documented_form() -> None:
    """422 names the fields; a body that is not JSON is 400; an unknown id is 404, before its body is looked at."""
    async with running() as (sandbox, session):
        status, body, _ = await post(sandbox, session, {"room_id": "x", "note": 1})
        assert status == 422
        assert body == {
            "message": "The note must be a string. (and 1 more error)",
            "errors": {"note": ["The note must be a string."], "room_id": ["The room id must be an integer."]},
        }
        for data in (b"", b"{", b"hello", b'{"note": NaN}', b"\xff", b"[" * 100_000):
            assert (await post(sandbox, session, data=data))[0] == 400
        assert (await post(sandbox, session, data=b'"text"'))[0] == 422
        assert (await post(sandbox, session, data=b"{", path="apt_1"))[0] == 404
        assert (await get(sandbox, session, "/appointments/apt_1"))[0] == 404
        assert (await post(sandbox, session, data=io.BytesIO(b" " * 2_000_000)))[0] == 413


async def test_null_and_absent_stay_different_on_the_wire() -> None:
    """An explicit null clears its field, an absent field stays."""
    async with running() as (sandbox, session):
        await post(sandbox, session, {"note": "keep", "room_id": 7})
        await post(sandbox, session, {"room_id": None})
        assert (sandbox.appointments["app_1"]["note"], sandbox.appointments["app_1"]["room_id"]) == ("keep", None)


async def test_strict_mode_knows_only_what_was_seeded() -> None:
    """With strict, an id exists if it was given in the settings, whatever it looks like."""
    async with running(strict=True, appointments=("apt_9",)) as (sandbox, session):
        assert (await post(sandbox, session, path="apt_9"))[0] == 200
        assert (await post(sandbox, session, path="app_1"))[0] == 404


@pytest.mark.parametrize(
    ("quoted", "appointment"),
    [
        ("app_a%2Fb", "app_a/b"),
        ("app_%252F", "app_%2F"),
        ("app_%C3%A9%20%3F%23", "app_é ?#"),
        ("app_%7Bx%7D", "app_{x}"),
        ("app_..%2F..%2F_sandbox%2Flog", "app_../../_sandbox/log"),
        ("app_%0A", "app_\n"),
    ],
)
async def test_an_id_is_decoded_after_the_path_is_split(quoted: str, appointment: str) -> None:
    """Whatever an id is made of reaches its own record."""
    async with running() as (sandbox, session):
        status, body, _ = await post(sandbox, session, path=quoted)
        assert (status, body["id"]) == (200, appointment)
        assert list(sandbox.appointments) == [appointment]
        assert sandbox.log[0].appointment == appointment


@pytest.mark.parametrize(
    "quoted", ["..%2Fapp_1", "%2E%2E", "", "app_1/", "app_1/x", "%2Fapp_1", "app_%FF", "../appointments"]
)
async def test_a_strange_id_is_404_and_never_another_route(quoted: str) -> None:
    """An id that nobody has, with dots, slashes or no UTF-8, is 404: not the list, not another appointment."""
    async with running() as (sandbox, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(sandbox.base_url).port)
        for method in ("GET", "POST"):
            head = f"{method} /v1/appointments/{quoted} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sandbox"
            writer.write(f"{head}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
            assert await reader.readline() == b"HTTP/1.1 404 Not Found\r\n"
            headers = (await reader.readuntil(b"\r\n\r\n")).decode()
            await reader.readexactly(int(headers.partition("Content-Length: ")[2].split()[0]))
        writer.close()
        await writer.wait_closed()
        assert sandbox.appointments == {}


async def test_a_wrong_method_is_405() -> None:
    """What the API's page does not name is not done."""
    async with running() as (sandbox, session):
        for method, path in (
            ("DELETE", "/appointments/app_1"),
            ("PUT", "/appointments/app_1"),
            ("POST", "/appointments"),
        ):
            async with session.request(method, sandbox.base_url + path, json={}) as answer:
                assert answer.status == 405
        assert sandbox.appointments == {}


async def test_the_list_comes_in_pages() -> None:
    """Following `next` shows every appointment once; `prev` leads back; both ends are null."""
    async with running(appointments=tuple(f"app_{number}" for number in range(7))) as (sandbox, session):
        found: list[str] = []
        path: str | None = "/appointments?per_page=3"
        pages = []
        while path is not None:
            status, body, _ = await get(sandbox, session, path)
            assert status == 200
            found += [resource["id"] for resource in body["data"]]
            pages.append(body)
            following = body["links"]["next"]
            path = following and following.removeprefix(sandbox.base_url)
        assert found == [f"app_{number}" for number in range(7)]
        assert [len(page["data"]) for page in pages] == [3, 3, 1]
        assert pages[0]["links"]["prev"] is None
        back = pages[2]["links"]["prev"].removeprefix(sandbox.base_url)
        assert (await get(sandbox, session, back))[1] == pages[1]
        assert len((await get(sandbox, session, "/appointments"))[1]["data"]) == 7
        for query in ("page=0", "page=x", "per_page=101", "per_page=-1", "page=" + "9" * 5000):
            status, body, _ = await get(sandbox, session, f"/appointments?{query}")
            assert (status, list(body["errors"])) == (422, [query.split("=")[0]])
