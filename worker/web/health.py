"""/livez: does the loop turn? A restart mends it if not. /readyz: can it do its work? If not, a person has to look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import asyncpg
from aiohttp import web

from worker import clock, privacy
from worker.database import understood
from worker.errors import DATABASE_FAULTS, SchemaMissing, SchemaTooNew
from worker.migrate import require_current_schema
from worker.pulse import Pulse
from worker.sqlfiles import query
from worker.web.server import Page, plain

# What the database said is good for so long; and an asker waits for no longer than that, in seconds.
KEPT_S = 1.0
LONGEST_S = 3.0


def liveness(pulse: Pulse) -> Page:
    """The page. It needs no database: a service that waits for one is alive."""

    async def page(_: web.BaseRequest) -> web.Response:
        if late := pulse.late:
            return plain(503, f"caspen-sync is late: {', '.join(late)}")
        return plain(200, "caspen-sync is alive")

    return page


@dataclass(frozen=True, slots=True)
class _Finding:
    what: str
    wrong: str | None = None

    def __str__(self) -> str:
        text = f"ok {self.what}" if self.wrong is None else f"failed {self.what}: {self.wrong}"
        return privacy.printable(privacy.redacted(text))


class Readiness:
    """Looks at what can be wrong; many askers at once share one look at the database."""

    def __init__(
        self, pool: asyncpg.Pool, accounts: Sequence[str], *, started: Callable[[], bool], draining: Callable[[], bool]
    ) -> None:
        """`accounts`: those of this process. `started`: whether the work has begun."""
        self._pool = pool
        self._accounts = sorted(accounts)
        self._started = started
        self._draining = draining
        self._looked_at = 0.0
        self._found: Sequence[_Finding] = ()
        self._looking: asyncio.Task[None] | None = None

    async def page(self, _: web.BaseRequest) -> web.Response:
        """One line for each thing that was looked at; 503 when one of them is wrong."""
        findings = [*await self._seen(), *self._of_this_process()]
        return plain(503 if any(one.wrong for one in findings) else 200, "\n".join(map(str, findings)))

    def _of_this_process(self) -> Sequence[_Finding]:
        if self._draining():
            return [_Finding("draining", "told to stop; it finishes what is on the wire")]
        return [_Finding("start", None if self._started() else "the accounts are not registered yet")]

    async def _seen(self) -> Sequence[_Finding]:
        if not self._found or clock.now() - self._looked_at > KEPT_S:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            # Not cancelled when it takes long: that would cost a connection, and the next asker a new one.
            await asyncio.wait({self._looking}, timeout=LONGEST_S)
            if not self._looking.done():
                return [_Finding("database", f"no answer within {LONGEST_S:g} s")]
            self._looking.result()
        return self._found

    async def _look(self) -> None:
        try:
            with understood():
                async with self._pool.acquire() as conn:
                    await require_current_schema(conn)
                    rows = await conn.fetch(query("refused"), self._accounts)
        except (SchemaMissing, SchemaTooNew) as error:
            self._found = [_Finding("database"), _Finding("schema", _said(error))]
        except DATABASE_FAULTS as error:
            self._found = [_Finding("database", _said(error))]
        else:
            self._found = [_Finding("database"), _Finding("schema"), *self._of_accounts(dict(map(tuple, rows)))]
        self._looked_at = clock.now()

    def _of_accounts(self, refused: dict[str, str | None]) -> Sequence[_Finding]:
        """An account that is refused waits for a person. Other pauses do not count: throttled, down and rejected are
        the API's business and end by themselves, and a pause by hand is meant; a restart, or another host, would meet
        the same."""
        return [
            _Finding(
                f"account {name}",
                f"the API refused its token ({refused[name]}); replace it, and restart what has it from systemd"
                if name in refused
                else None,
            )
            for name in self._accounts
        ]


def _said(error: Exception) -> str:
    return str(error).removeprefix("database: ")
