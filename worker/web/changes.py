"""Parked changes: the list, one change with its history, and what a person decides over them."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from aiohttp import web

from worker.byhand import By
from worker.history import attempts, change, interventions
from worker.parked import Filter, ParkedChange, contents, discard, find, of_reason, retry
from worker.telemetry import Log
from worker.web.access import Access
from worker.web.asked import Asked, NotDone, gone_to, html

SHOWN = 50
SHOWN_ATTEMPTS = 50
# Of one click: more would take longer than a connection may last.
MOST_AT_ONCE = 2000
LONGEST_REASON = 500


class Changes:
    """The pages."""

    def __init__(self, access: Access, log: Log) -> None:
        self._access = access
        self._log = log

    async def parked(self, asked: Asked) -> web.Response:
        """The parked changes, a page of them; of one reason, or one account, when asked for."""
        account, digest, after = asked.given("account"), asked.given("reason"), asked.number("after") or 0
        async with self._access.acquire() as conn:
            ids = await of_reason(conn, digest, account=account, after=after, limit=SHOWN + 1)
            found = await find(conn, Filter(ids=tuple(ids[:SHOWN]), account=account))
        more = _path("/parked", account=account, reason=digest, after=ids[SHOWN - 1]) if len(ids) > SHOWN else None
        return html(
            asked,
            200,
            "parked.html",
            here="parked",
            found=found,
            account=account,
            digest=digest,
            after=after,
            more=more,
            done=_done(asked),
        )

    async def one(self, asked: Asked) -> web.Response:
        """One change, whatever became of it; what it says only for who has signed in."""
        account, change_id = asked.given("account"), asked.number("id")
        if account is None or change_id is None:
            raise NotDone(400, "Which change? Its account and number are missing.")
        async with self._access.acquire() as conn:
            found = await change(conn, account, change_id)
            if found is None:
                raise NotDone(404, f"There is no change {change_id} of account {account}; old ones are deleted.")
            said = await contents(conn, account, change_id) if asked.visitor.may_change else None
            made = await attempts(
                conn, found.appointment_id, account=account, change_id=change_id, limit=SHOWN_ATTEMPTS
            )
            people = await interventions(conn, account, change_id)
        return html(
            asked,
            200,
            "change.html",
            here="parked",
            found=found,
            said=said,
            made=made,
            people=people,
            done=_done(asked),
        )

    async def retry(self, asked: Asked) -> web.Response:
        """Sends the chosen changes again; all of a reason only after having asked."""
        found, whole = await self._chosen(asked)
        if whole and not asked.sent("sure"):
            return self._ask(asked, "retry", found)
        async with self._access.acquire() as conn:
            done = await retry(conn, found, _by(asked))
        self._log.info("done_by_hand", kind="retry", changes=len(done))
        outdated = sum(one.discarded for one in done)
        return self._back(asked, found, did="retry", n=len(done) - outdated, outdated=outdated)

    async def discard(self, asked: Asked) -> web.Response:
        """Gives the chosen changes up, after having asked."""
        found, _ = await self._chosen(asked)
        if not asked.sent("sure"):
            return self._ask(asked, "discard", found)
        async with self._access.acquire() as conn:
            done = await discard(conn, found, _by(asked))
        self._log.info("done_by_hand", kind="discard", changes=done)
        return self._back(asked, found, did="discard", n=done)

    async def _chosen(self, asked: Asked) -> tuple[list[ParkedChange], bool]:
        """Those that were ticked, or all of a reason and an account."""
        account, digest = asked.sent("account") or None, asked.sent("reason") or None
        ids, whole = asked.sent_numbers("id"), bool(asked.sent("whole"))
        async with self._access.acquire() as conn:
            if whole:
                ids = await of_reason(conn, digest, account=account, limit=MOST_AT_ONCE)
            found = await find(conn, Filter(ids=tuple(ids), account=account)) if ids else []
        if not ids and not whole:
            raise NotDone(400, "No change was chosen. Nothing was changed.")
        if not found:
            raise NotDone(409, "None of these is parked any more: they have been dealt with. Nothing was changed.")
        return found, whole

    @staticmethod
    def _ask(asked: Asked, action: str, found: Sequence[ParkedChange]) -> web.Response:
        """Is it meant?"""
        kept = {name: value for name in ("account", "reason", "from") if (value := asked.sent(name))}
        return html(
            asked,
            200,
            "sure.html",
            here="parked",
            action=action,
            found=found,
            kept=kept,
            longest=LONGEST_REASON,
            most=MOST_AT_ONCE,
        )

    @staticmethod
    def _back(asked: Asked, found: Sequence[ParkedChange], **done: object) -> web.Response:
        """To where it was done from."""
        if asked.sent("from") == "change":
            return gone_to(_path("/change", account=found[0].account, id=found[0].id, **done))
        return gone_to(_path("/parked", account=asked.sent("account"), reason=asked.sent("reason"), **done))


def _by(asked: Asked) -> By:
    return By(who=f"{asked.visitor.name} (page)", reason=asked.sent("why").strip()[:LONGEST_REASON] or None)


def _done(asked: Asked) -> tuple[str, int, int] | None:
    """What has just been done: the action, how many changes, and how many had nothing left to send."""
    action = asked.given("did")
    if action not in ("retry", "discard"):
        return None
    return action, asked.number("n") or 0, asked.number("outdated") or 0


def _path(path: str, **values: object) -> str:
    given = {name: value for name, value in values.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path
