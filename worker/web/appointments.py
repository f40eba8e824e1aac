"""One appointment: where it stands, and the requests that were made for it."""

from __future__ import annotations

from aiohttp import web

from worker.history import attempts, standing
from worker.parked import Filter, find
from worker.web.access import Access
from worker.web.asked import Asked, NotDone, html
from worker.web.figures import Looks

SHOWN_ATTEMPTS = 100
SHOWN_PARKED = 20


class Appointments:
    """The page."""

    def __init__(self, looks: Looks, access: Access) -> None:
        self._looks = looks
        self._access = access

    async def one(self, asked: Asked) -> web.Response:
        """Whatever is known of it, in each account that knows it, and what stops an account in which it waits."""
        given = asked.given("id")
        if given is None:
            raise NotDone(400, "Which appointment? Its id is missing.")
        async with self._access.acquire() as conn:
            standings = await standing(conn, given)
            # An id may have blanks at its ends; as a rule they came along when it was pasted.
            appointment_id = given if standings else given.strip()
            standings = standings or await standing(conn, appointment_id)
            made = await attempts(conn, appointment_id, limit=SHOWN_ATTEMPTS)
            parked = await find(conn, Filter(appointment_id=appointment_id), limit=SHOWN_PARKED)
        known = standings or made or parked
        status = (await self._looks.now()).status if any(one.pending for one in standings) else None
        return html(
            asked,
            200 if known else 404,
            "appointment.html",
            appointment_id=appointment_id,
            standings=standings,
            made=made,
            parked=parked,
            accounts={one.account: one for one in status.accounts} if status else {},
        )
