"""The sandbox as a server that starts and stops."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Self

from aiohttp import web

from worker.sandbox.api import Api
from worker.sandbox.control import CONTROL_PATH, Control
from worker.sandbox.journal import Clock, Entry, Journal
from worker.sandbox.routes import API_PATH
from worker.sandbox.settings import SandboxSettings
from worker.sandbox.store import Appointments

# How long stopping waits for requests in flight; what still runs then is cut off, as when a server dies.
_STOP_S = 0.1


class Sandbox:
    """A stand-in for the Caspen API: `async with Sandbox(settings) as sandbox`.

    It can be stopped and started again, which is what an API that is down looks like: the port, the
    appointments, the log and what the throttles have counted stay.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self._settings = settings or SandboxSettings()
        self._clock = Clock()
        self._journal = Journal(self._settings.log_file)
        self._appointments = Appointments(strict=self._settings.strict, ids=self._settings.ids)
        for appointment_id in self._settings.appointments:
            self._appointments.add(appointment_id, now=self._clock.now())
        self._api = Api(self._settings, self._appointments, self._journal, self._clock)
        self._port = self._settings.port
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens. Raises OSError when the port is taken or the log file cannot be opened."""
        app = web.Application()
        # Everything, line feeds too: the API's side reads the path itself, as it came over the wire.
        app.router.add_route("*", API_PATH + "/{rest:(?s:.*)}", self._api.handle)
        app.router.add_routes(Control(self._api, self._appointments, self._journal).routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_S)
        self._journal.open()
        self._runner = runner
        try:
            await runner.setup()
            site = web.TCPSite(runner, self._settings.host, self._port, backlog=1024)
            await site.start()
        except BaseException:
            await self.stop()
            raise
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stops listening and cuts off what is in flight. Does nothing if it is not running."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        await runner.cleanup()
        await self._api.stop()
        self._journal.close()

    @property
    def base_url(self) -> str:
        """Where the API is, such as `http://127.0.0.1:8460/v1`; known once it has started."""
        return f"{self._origin}{API_PATH}"

    @property
    def control_url(self) -> str:
        """Where the control side is."""
        return f"{self._origin}{CONTROL_PATH}"

    @property
    def _origin(self) -> str:
        host = self._settings.host
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    @property
    def log(self) -> list[Entry]:
        """The requests so far, those in flight included."""
        return self._journal.since()

    @property
    def appointments(self) -> Appointments:
        """What the API holds."""
        return self._appointments

    def now(self) -> float:
        """Unix time in seconds by the clock of the log and the throttle."""
        return self._clock.now()

    def set_faults(self, faults: Mapping[str, float]) -> None:
        """Replaces the faults' probabilities; ValueError for an unknown name or a bad probability."""
        self._api.faults.replace(faults)

    def set_tokens(self, accepted: Collection[str], forbidden: Collection[str] = ()) -> None:
        """Replaces the tokens. What a token has used stays counted."""
        self._api.set_tokens(accepted, forbidden)

    def set_latency(self, latency_s: float, jitter_s: float = 0.0) -> None:
        """Replaces the latency and its jitter, in seconds; ValueError for what is not 0 or more."""
        self._api.set_latency(latency_s, jitter_s)
