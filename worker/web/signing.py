"""Signing in and out."""

from __future__ import annotations

from aiohttp import web

from worker import clock
from worker.telemetry import Log
from worker.web.asked import Asked, gone_to, html, local_path
from worker.web.doorman import LONGEST_NAME, Doorman

# A wrong token is worth a line; a thousand of them are not worth a thousand.
TOLD_EVERY_S = 60.0


class Signing:
    """The page and its form."""

    def __init__(self, doorman: Doorman, log: Log) -> None:
        self._doorman = doorman
        self._log = log
        self._refused = 0
        self._told_at = -TOLD_EVERY_S

    async def page(self, asked: Asked) -> web.Response:
        """The form; for who is signed in, there is nothing to do here."""
        going_to = local_path(asked.request.query.get("next", "/"))
        return gone_to(going_to) if asked.visitor.may_change else self._form(asked, 200, going_to)

    async def sign_in(self, asked: Asked) -> web.Response:
        """Lets in who knows the token."""
        going_to = local_path(asked.sent("next"))
        if not self._doorman.is_token(asked.sent("token").strip()):
            self._tell()
            return self._form(asked, 403, going_to, wrong=asked.visitor.token_set)
        response = gone_to(going_to)
        self._doorman.let_in(asked.request, response, asked.sent("name").strip() or "somebody")
        return response

    async def sign_out(self, asked: Asked) -> web.Response:
        """And out."""
        response = gone_to("/")
        self._doorman.let_out(asked.request, response)
        return response

    def _form(self, asked: Asked, status: int, going_to: str, *, wrong: bool = False) -> web.Response:
        return html(
            asked,
            status,
            "sign_in.html",
            here="sign-in",
            going_to=going_to,
            wrong=wrong,
            longest=LONGEST_NAME,
            name=asked.sent("name"),
        )

    def _tell(self) -> None:
        self._refused += 1
        if clock.now() - self._told_at >= TOLD_EVERY_S:
            self._log.warning("sign_in_refused", times=self._refused)
            self._refused, self._told_at = 0, clock.now()
