"""One account: how it is, and what a person may do to it, which is to stop it and let it go on."""

from __future__ import annotations

from urllib.parse import urlencode

from aiohttp import web

from worker import byhand
from worker.byhand import By
from worker.config import Settings
from worker.sqlfiles import query
from worker.telemetry import Log
from worker.web.access import Access
from worker.web.asked import Asked, NotDone, gone_to, html
from worker.web.changes import LONGEST_REASON
from worker.web.figures import Looks


class Accounts:
    """The page and its two buttons."""

    def __init__(self, looks: Looks, access: Access, settings: Settings, log: Log) -> None:
        self._looks = looks
        self._access = access
        self._settings = settings
        self._log = log

    async def one(self, asked: Asked) -> web.Response:
        """How one account is."""
        name = asked.given("name")
        figures = await self._looks.now()
        found = [one for one in (figures.status.accounts if figures.status else ()) if one.account == name]
        if figures.status is None:
            raise NotDone(503, figures.verdict.details or figures.verdict.headline)
        if not found:
            raise NotDone(404, "There is no such account, or no service has taken it up yet.")
        return html(
            asked,
            200,
            "account.html",
            here="accounts",
            one=found[0],
            longest=LONGEST_REASON,
            workers=[worker.worker for worker in figures.status.workers if name in worker.accounts],
        )

    async def pause(self, asked: Asked) -> web.Response:
        """Stops an account in every process."""
        return await self._do(asked, "pause")

    async def resume(self, asked: Asked) -> web.Response:
        """Ends whatever pause an account is in."""
        return await self._do(asked, "resume")

    async def _do(self, asked: Asked, action: str) -> web.Response:
        name = asked.sent("name")
        by = By(who=f"{asked.visitor.name} (page)", reason=asked.sent("why").strip()[:LONGEST_REASON] or None)
        async with self._access.acquire() as conn, conn.transaction():
            await byhand.wait_briefly(conn)
            if name not in {row["account"] for row in await conn.fetch(query("known_accounts"))}:
                raise NotDone(404, "There is no such account, or no service has taken it up yet. Nothing was changed.")
            if action == "pause":
                await byhand.pause(conn, self._settings, name, by)
            else:
                await byhand.resume(conn, self._settings, name, by)
        self._looks.look_anew()
        self._log.info("done_by_hand", kind=action, account=name)
        return gone_to(f"/account?{urlencode({'name': name})}")
