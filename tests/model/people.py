"""What people do to an account, by the product's own code."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from tests.model.ledger import Ledger
from worker import byhand, parked
from worker.config import Settings

_BY = byhand.By(who="somebody", reason="so it is to be")


@dataclass(frozen=True, slots=True)
class People:
    """They have a connection as a worker has one."""

    pool: asyncpg.Pool
    account: str
    settings: Settings
    ledger: Ledger

    async def deal_with_parked(self, nth: int, *, discard: bool) -> None:
        """One parked change, if there is any, is sent again or given up."""
        async with self.pool.acquire() as conn:
            found = await parked.find(conn, parked.Filter(account=self.account))
            if not found:
                return
            change = found[nth % len(found)]
            if discard:
                await parked.discard(conn, [change], _BY)
                self.ledger.discarded.add(change.id)
            else:
                await parked.retry(conn, [change], _BY)
                self.ledger.retried.add(change.id)

    async def pause(self) -> None:
        await byhand.pause(self.pool, self.settings, self.account, _BY)

    async def resume(self) -> None:
        await byhand.resume(self.pool, self.settings, self.account, _BY)
