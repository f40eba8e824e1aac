"""OpenTelemetry traces, at a real collector: a span for each request, linked to its writers, and nothing of a body."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.support import canary
from tests.support.canary import NOTE
from tests.support.database import Database
from tests.support.otlp import Span, collector, link, traceparent, tracing, without_opentelemetry
from tests.support.processes import TOKEN, command, environment
from tests.support.rawserver import Request, answer, closed_port, keeping_alive, raw_server, silent
from tests.support.roles import connected_with
from worker import __version__
from worker.sandbox import NO_SUCH_ROOM, Sandbox, SandboxSettings

# After a claim that failed, the next one is not due while the test lasts.
FAR_OFF = {"RETRY__BACKOFF_BASE_S": "3600", "RETRY__BACKOFF_MAX_S": "3600"}
# Not W3C trace contexts, though some are close to one.
GARBLED = (
    NOTE,
    "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
    f"00-{0:032x}-b7ad6b7169203331-01",
    f"00-0af7651916cd43dd8448eb211c80319c-{0:016x}-01",
    "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-{NOTE}",
    f"{NOTE * 5000}",
)


def by_appointment(spans: list[Span]) -> dict[str, Span]:
    """The spans of requests that were sent once each."""
    found = {span.appointment_id: span for span in spans}
    assert len(found) == len(spans)
    return found


# -- what a span holds -----------------------------------------------------------------------------------------------


async def test_a_span_for_each_request(database: Database) -> None:
    """One for each, of kind CLIENT, each a trace of its own, with what the conventions for HTTP clients and we have to
    say; an error is one with the reason that also the log has. The worker says nothing of it."""
    await database.write("app_1", {"note": NOTE})
    await database.write("app_1", {"room_id": 7})
    await database.write("app_2", {"room_id": NO_SUCH_ROOM}, lane="backfill")
    async with collector() as collected, Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = tracing(collected.url, database.dsn, sandbox.base_url)
        ended = await command("run", "--once", env=env)
        assert (ended.exit_code, len(sandbox.log)) == (65, 2)
        assert "trac" not in ended.stderr
        spans = by_appointment(collected.spans)
    port = int(sandbox.base_url.split(":")[2].split("/")[0])
    common = {
        "http.request.method": "POST",
        "url.template": "/appointments/{appointment}",
        "server.address": "127.0.0.1",
        "server.port": port,
        "caspen_sync.account": "default",
    }
    assert spans["app_1"].attributes == common | {
        "url.full": f"{sandbox.base_url}/appointments/app_1",
        "http.response.status_code": 200,
        "caspen_sync.appointment_id": "app_1",
        "caspen_sync.lane": "live",
        "caspen_sync.changes": 2,
        "caspen_sync.outcome": "synced",
    }
    assert spans["app_2"].attributes == common | {
        "url.full": f"{sandbox.base_url}/appointments/app_2",
        "http.response.status_code": 422,
        "error.type": "422",
        "caspen_sync.appointment_id": "app_2",
        "caspen_sync.lane": "backfill",
        "caspen_sync.changes": 1,
        "caspen_sync.outcome": "rejected",
    }
    assert spans["app_1"].status == ("STATUS_CODE_UNSET", "")
    assert spans["app_2"].status == ("STATUS_CODE_ERROR", "422 validation failed: room_id")
    messages = [span.message for span in spans.values()]
    assert {(message.name, message.kind) for message in messages} == {("POST /appointments/{appointment}", 3)}
    assert [(message.parent_span_id, list(message.links), list(message.events)) for message in messages] == [
        (b"", [], [])
    ] * 2
    assert len({message.trace_id for message in messages}) == 2
    resource = dict(spans["app_1"].resource)
    assert (resource["service.name"], resource["service.version"]) == ("caspen-sync", __version__)
    assert resource["telemetry.sdk.name"] == "opentelemetry"
    assert resource["service.instance.id"].count(":") == 2


@pytest.mark.long
async def test_each_quick_retry_has_a_span(database: Database) -> None:
    """Three answers of 500 to one claim: three spans, numbered by how many requests went before; and what the operator
    says of the service beats what we say."""
    await database.write("app_1", {"note": NOTE}, traceparent=traceparent(1, 1))
    async with (
        collector() as collected,
        Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000, faults={"http_500": 1.0})) as sandbox,
    ):
        env = tracing(collected.url, database.dsn, sandbox.base_url, FAR_OFF)
        env |= {
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=left,deployment.environment=prod",
            "OTEL_SERVICE_NAME": "mine",
        }
        assert (await command("run", "--once", env=env)).exit_code == 75
        assert len(sandbox.log) == 3
        spans = collected.spans
    assert [span.attributes.get("http.request.resend_count") for span in spans] == [None, 1, 2]
    assert {span.attributes["error.type"] for span in spans} == {"500"}
    assert [span.status[0] for span in spans] == ["STATUS_CODE_ERROR"] * 3
    assert [span.links for span in spans] == [{link(1, 1)}] * 3
    assert len({span.message.trace_id for span in spans}) == 3
    assert spans[0].resource["service.name"] == "mine"
    assert spans[0].resource["deployment.environment"] == "prod"


@pytest.mark.long
@pytest.mark.parametrize("answers", [True, False])
async def test_a_request_without_an_answer(database: Database, answers: bool) -> None:
    """No status; the type of the error is our outcome, which says whether anything was sent."""
    await database.write("app_1", {"note": NOTE})
    settings = {"API__TIMEOUT_S": "0.5", "RETRY__QUICK_ATTEMPTS": "1", **FAR_OFF}
    async with collector() as collected, raw_server(silent()) as server:
        base_url = server.base_url if answers else f"http://127.0.0.1:{closed_port()}/v1"
        ended = await command("run", "--once", env=tracing(collected.url, database.dsn, base_url, settings))
        (span,) = collected.spans
    assert ended.exit_code in (69, 75)
    outcome, reason = ("unknown", "no answer within") if answers else ("not_sent", "Connection refused")
    assert span.attributes["error.type"] == span.attributes["caspen_sync.outcome"] == outcome
    assert "http.response.status_code" not in span.attributes
    assert reason in span.status[1]


async def test_what_was_folded_is_linked(database: Database) -> None:
    """One request for the changes of two traced writers, one of whom wrote twice, of one without a trace and of some
    who write nonsense: links to the two, once each, and not a letter of the nonsense."""
    await database.write("app_1", {"note": "first"}, traceparent=traceparent(0xA, 0xB))
    await database.write("app_1", {"note": "second"})
    for text in GARBLED:
        canary.sing(text)
        await database.write("app_1", {"confirmed": True}, traceparent=text)
    for room in (7, 8):
        await database.write("app_1", {"room_id": room}, traceparent=traceparent(0xC, 0xD, flags="00"))
    await database.write("app_2", {"room_id": 7}, traceparent=traceparent(0xE, 0xF))
    async with collector() as collected, Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = tracing(collected.url, database.dsn, sandbox.base_url)
        ended = await command("run", "--once", "--log-level", "debug", env=env)
        assert (ended.exit_code, len(sandbox.log)) == (0, 2)
        spans = by_appointment(collected.spans)
    assert spans["app_1"].attributes["caspen_sync.changes"] == 4 + len(GARBLED)
    assert spans["app_1"].links == {link(0xA, 0xB), link(0xC, 0xD)}
    assert spans["app_2"].links == {link(0xE, 0xF)}
    assert not {span.message.trace_id for span in spans.values()} & {
        bytes.fromhex(f"{n:032x}") for n in (0xA, 0xC, 0xE)
    }


@pytest.mark.long
async def test_the_api_hears_nothing_of_it(database: Database) -> None:
    """The API is somebody else's: no header of a trace goes there, whatever propagators are set."""
    await database.write("app_1", {"room_id": 7}, traceparent=traceparent(1, 2))
    async with collector() as collected, raw_server(keeping_alive(answer("200 OK", b'{"id": "x"}'))) as server:
        env = tracing(collected.url, database.dsn, server.base_url) | {"OTEL_PROPAGATORS": "tracecontext,baggage,b3"}
        assert (await command("run", "--once", env=env)).exit_code == 0
        assert len(collected.spans) == 1
    (request,) = server.requests
    assert set(request.headers) == {
        *("host", "accept", "accept-encoding", "content-type", "user-agent", "authorization", "content-length")
    }


@pytest.mark.long
async def test_nothing_of_a_body_is_in_it(database: Database) -> None:
    """An API that quotes request and token in its refusals: neither is in what the collector gets (it looks, see
    `tests.support.otlp`); and the collector's own secret is in no line of the log."""

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        quoted = f"{json.loads(request.body)['note']} {request.headers['authorization']}"
        said = json.dumps({"message": quoted, "errors": {"note": [quoted], quoted: [quoted]}}).encode()
        writer.write(answer("422 Unprocessable", said, f"X-Echo: {quoted}"))
        await writer.drain()

    await database.write("app_1", {"note": NOTE})
    secret = "collectors-own-secret"
    canary.sing(secret)
    async with collector(status=401) as collected, raw_server(respond) as server:
        env = tracing(collected.url, database.dsn, server.base_url)
        env |= {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{secret}", "PYTHONDEVMODE": "1"}
        ended = await command("run", "--once", "--log-level", "debug", env=env)
        assert ended.exit_code == 65
        assert collected.headers[0]["authorization"] == f"Bearer {secret}"
        assert len(collected.spans) == 1
    assert '"error": "401 Unauthorized"' in ended.stderr


# -- where it is not asked for, or not there -------------------------------------------------------------------------

RUN = "import sys, worker.cli; code = worker.cli.main(['run', '--once']); print(*sys.modules); sys.exit(code)"


@pytest.mark.parametrize("off", [None, {"OTEL_TRACES_EXPORTER": "none"}])
async def test_off_means_not_even_imported(database: Database, off: dict[str, str] | None) -> None:
    """Without an endpoint, or switched off, a run that sends something imports nothing of OpenTelemetry."""
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = environment(database.dsn, sandbox.base_url)
        if off:
            env = tracing(f"http://127.0.0.1:{closed_port()}", database.dsn, sandbox.base_url) | off
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", RUN), env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        assert (process.returncode, err, len(sandbox.log)) == (0, b"", 1)
    imported = set(out.decode().split())
    assert "worker.sender" in imported
    assert not {name for name in imported if name.startswith(("opentelemetry", "requests", "worker.spans"))}


@pytest.mark.long
async def test_asked_for_and_not_installed(database: Database, tmp_path: Path) -> None:
    """One line that names the extra; the work goes on."""
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = tracing("http://127.0.0.1:4318", database.dsn, sandbox.base_url) | without_opentelemetry(tmp_path)
        ended = await command("run", "--once", env=env)
    (line,) = ended.stderr.splitlines()
    assert (ended.exit_code, await database.states()) == (0, {"synced": 1})
    assert json.loads(line)["event"] == "tracing_unavailable"
    assert "pip install 'caspen-sync[otel]'" in json.loads(line)["reason"]


@pytest.mark.long
async def test_settings_that_make_no_sense(database: Database) -> None:
    """What OpenTelemetry will not take is said in one line, without its value; the work goes on."""
    await database.write("app_1", {"note": NOTE})
    async with Sandbox(SandboxSettings(tokens=(TOKEN,), limit=1000)) as sandbox:
        env = tracing("http://127.0.0.1:4318", database.dsn, sandbox.base_url) | {"OTEL_BSP_MAX_QUEUE_SIZE": "-77"}
        ended = await command("run", "--once", env=env)
    (line,) = ended.stderr.splitlines()
    assert (ended.exit_code, await database.states()) == (0, {"synced": 1})
    assert (json.loads(line)["event"], json.loads(line)["error"]) == ("tracing_unavailable", "ValueError")
    assert "-77" not in line


# -- rights ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_who_may_do_what_with_a_traceparent(database: Database) -> None:
    """The writer may store one and not look at it; the reader gets nothing new."""
    async with connected_with(database, "caspen_sync_writer") as conn:
        await conn.execute(
            "INSERT INTO caspen_sync.outbox (appointment_id, changes, traceparent) "
            "VALUES ('app_1', '{\"room_id\": 1}', $1)",
            traceparent(1, 2),
        )
    assert await database.value("SELECT traceparent FROM caspen_sync.outbox") == traceparent(1, 2)
    rights = await database.rows(
        """
        SELECT role, right_ FROM unnest(ARRAY['writer', 'reader', 'worker']) role,
            unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) right_
        WHERE has_column_privilege('caspen_sync_' || role, 'caspen_sync.outbox', 'traceparent', right_)
        """
    )
    assert {tuple(row) for row in rights} == {
        ("writer", "INSERT"),
        *(("worker", right) for right in ("SELECT", "INSERT", "UPDATE")),
    }
