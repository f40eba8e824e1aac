"""What people do to an account, by the product's own code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import asyncpg

from tests.model.ledger import Ledger
from worker import byhand, parked
from worker.config import Settings

_PAUSED = "SELECT pause_kind FROM caspen_sync.account WHERE account = $1"
_BY = byhand.By(who="somebody", reason="so it is to be")


class Action(StrEnum):
    """What a person does to a parked change."""

    RETRY = "retry"
    DISCARD = "discard"
    EDIT = "edit"


@dataclass(frozen=True, slots=True)
class People:
    """They have a connection as a worker has one."""

    pool: asyncpg.Pool
    account: str
    settings: Settings
    ledger: Ledger

    async def deal_with_parked(self, nth: int, action: Action, body: Mapping[str, Any]) -> None:
        """One parked change, if there is any, is sent again, given up, or is to say `body` from now on."""
        async with self.pool.acquire() as conn:
            found = await parked.find(conn, parked.Filter(account=self.account))
            if not found:
                return
            change = found[nth % len(found)]
            if action is Action.DISCARD:
                await parked.discard(conn, [change], _BY)
                self.ledger.discarded.add(change.id)
                return
            if action is Action.EDIT:
                await parked.edit(conn, change, body, _BY, self.settings.api)
                self.ledger.edit(change.id, body)
            else:
                await parked.retry(conn, [change], _BY)

    async def pause_or_resume(self) -> None:
        kind = await self.pool.fetchval(_PAUSED, self.account)
        if kind == "manual":
            await self.resume()
        else:
            await byhand.pause(self.pool, self.settings, self.account, _BY)

    async def resume(self) -> None:
        await byhand.resume(self.pool, self.settings, self.account, _BY)
