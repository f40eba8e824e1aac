"""The server: which requests are answered, and for how long anybody may take with one.

One request a connection, and so many connections, each for so long: whoever is slow, or holds a connection open, is
cut, and costs neither memory nor file handles that the work needs. At the end nothing has to be waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from worker import privacy
from worker.errors import ConfigError
from worker.telemetry import Log

# From its first byte to the last of its answer, in seconds. Prometheus waits for ten by itself.
CONNECTION_S = 15.0
MOST_CONNECTIONS = 64
# How long the end waits for answers that are on their way; aiohttp waits twice.
CLOSING_S = 0.25
# Nobody has more to say in one line; aiohttp's own limits, 8 KiB and 128 header fields, are for browsers.
LINE_BYTES = 8190

HEADERS = {"Server": "caspen-sync", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

NO_FORMS: Mapping[str, Page] = {}

_OTHER = 'set http.listen to another one, or to "" to go without'
_MENDS = {
    errno.EADDRINUSE: f"each service on a host needs an address of its own: {_OTHER}",
    errno.EACCES: 'set http.listen to a port from 1024 on, or to "" to go without',
    errno.EADDRNOTAVAIL: 'set http.listen to an address of this host, such as 127.0.0.1:9464, or to "" to go without',
}


def plain(status: int, text: str, **headers: str) -> web.Response:
    """An answer of some lines of text."""
    return web.Response(status=status, text=f"{text}\n", headers=headers)


@contextlib.asynccontextmanager
async def listening(
    host: str, port: int, pages: Mapping[str, Page], *, forms: Mapping[str, Page] = NO_FORMS, log: Log
) -> AsyncIterator[str]:
    """Answers for these paths: `pages` to GET and HEAD, `forms` to POST. Gives the address.

    Raises ConfigError, about `http.listen`, when the address cannot be had.
    """
    server = _Server(_handler(pages, forms, log), access_log=None, lingering_time=0, max_line_size=LINE_BYTES)
    runner = web.ServerRunner(server, shutdown_timeout=CLOSING_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, UnicodeError) as error:
            raise _refusal(_written((host, port)), error) from None
        addresses = [_written(bound) for bound in runner.addresses]
        for address in addresses:
            log.info("http_listening", address=address)
        yield addresses[0]
    finally:
        await runner.cleanup()


def _handler(pages: Mapping[str, Page], forms: Mapping[str, Page], log: Log) -> Page:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answers = {"GET": pages, "HEAD": pages, "POST": forms}.get(request.method, {})
        page = answers.get(request.path)
        if page is None:
            return _finished(_no_page(request.path, pages, forms))
        try:
            response = await page(request)
        except ConnectionError:
            raise
        except Exception as error:
            log.error("http_failed", error=type(error).__name__, at=privacy.places(error))  # noqa: TRY400  below
            if request.writer.output_size > 0:
                raise
            # Nothing of the error itself: its message could quote anything.
            response = plain(500, "a fault of caspen-sync itself; its log says where")
        return _finished(response)

    return handle


def _no_page(path: str, pages: Mapping[str, Page], forms: Mapping[str, Page]) -> web.Response:
    allowed = [*(["GET", "HEAD"] if path in pages else []), *(["POST"] if path in forms else [])]
    if not allowed:
        return plain(404, "no such page")
    return plain(405, f"only {' and '.join(allowed)}", Allow=", ".join(allowed))


def _finished(response: web.StreamResponse) -> web.StreamResponse:
    if not response.prepared:
        response.headers.update(HEADERS)
        response.force_close()
    return response


@contextlib.contextmanager
def spared(request: web.BaseRequest) -> Iterator[None]:
    """Meanwhile this connection may last for longer than others; whoever asks for it sees to its end."""
    connection = request.protocol
    if isinstance(connection, _Connection) and connection.cut is not None:
        connection.cut.cancel()
    try:
        yield
    finally:
        if request.transport is not None and isinstance(connection, _Connection):
            connection.cut = asyncio.get_running_loop().call_later(CONNECTION_S, request.transport.abort)


class _Server(web.Server):
    def __init__(self, handler: Page, **options: Any) -> None:
        super().__init__(handler, **options)
        self._options = options

    def __call__(self) -> web.RequestHandler:
        """What speaks HTTP on one connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """One more; one too many goes at once, and every one in the end."""
        super().connection_made(handler, transport)
        assert isinstance(handler, _Connection)  # noqa: S101  made by us
        too_many = len(self.connections) > MOST_CONNECTIONS
        # Not before aiohttp has begun with it: it would complain in the log.
        handler.cut = asyncio.get_running_loop().call_later(0 if too_many else CONNECTION_S, transport.abort)


class _Connection(web.RequestHandler):
    __slots__ = ("cut",)

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self.cut: asyncio.TimerHandle | None = None
        """What ends the connection in time."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,  # noqa: ARG002  it quotes the request
    ) -> web.StreamResponse:
        """What is no HTTP is answered and not logged: anybody can send it, as often as they like."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, another cannot be given")
        return _finished(plain(status, HTTPStatus(status).phrase.lower()))


def _refusal(address: str, error: OSError | UnicodeError) -> ConfigError:
    number, why = errno.EADDRNOTAVAIL, "this name is not known"
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror):
        # From Python 3.13 on, asyncio has no number where none of the addresses is this host's.
        number = error.errno or errno.EADDRNOTAVAIL
        why = os.strerror(number).lower()
    mend = _MENDS.get(number, _OTHER)
    return ConfigError(f"http.listen: cannot listen on {address}: {why}; {mend}")


def _written(bound: tuple[Any, ...]) -> str:
    host, port = bound[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
