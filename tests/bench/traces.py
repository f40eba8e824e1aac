"""What tracing costs a request, in CPU time of the whole process, delivery included: `python -m tests.bench.traces`.

What is followed is a request that takes no time; a collector in a process of its own takes the spans.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from tests.support.otlp import traceparent
from tests.support.settlements import claim, synced
from worker import tracing
from worker.claims import Claim
from worker.merge import Change
from worker.outcome import Exchange
from worker.telemetry import log

BATCH = 100
COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
print(server.server_port, flush=True)
server.serve_forever()
"""


def main() -> None:
    collector = subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True)
    assert collector.stdout is not None
    with collector.stdout:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{int(collector.stdout.readline())}"
        try:
            for folded, requests in ((1, 20_000), (10, 20_000), (1000, 2_000)):
                off, on = asyncio.run(_measured(folded, requests))
                print(f"{folded:>4} changes folded: off {off:5.2f} µs, on {on:7.1f} µs CPU a request")
        finally:
            collector.kill()
            collector.wait()


async def _measured(folded: int, requests: int) -> tuple[float, float]:
    claimed = claim([Change(id=n, changes={"room_id": n}, traceparent=traceparent(n, n)) for n in range(1, folded + 1)])
    bare = await _cpu_us(claimed, requests, traced=False)
    off = await _cpu_us(claimed, requests, traced=True)
    began = time.process_time()
    async with tracing.traced("https://api.example/v1", worker="bench", log=log()):
        await _cpu_us(claimed, requests, traced=True)
    on = (time.process_time() - began) / requests * 1e6
    return off - bare, on - bare


async def _cpu_us(claimed: Claim, requests: int, *, traced: bool) -> float:
    """µs a request, followed or bare."""
    began = time.process_time()
    for number in range(requests):
        sending = _answered()
        await (tracing.followed(sending, claimed, claimed.changes, resends=0) if traced else sending)
        if number % BATCH == BATCH - 1:
            await asyncio.sleep(0.02)  # so that the queue of spans never runs over
    return (time.process_time() - began) / requests * 1e6


_EXCHANGE = Exchange(outcome=synced(), started_at=0.0, ended_at=0.1)


async def _answered() -> Exchange:
    return _EXCHANGE


if __name__ == "__main__":
    main()
