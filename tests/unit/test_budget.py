"""What answers say of the budget: which of it is written down, and when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from tests.support.claims import limits
from tests.support.waiting import eventually
from worker import budget as module
from worker.budget import LIMIT_MAX, PLENTY, BudgetWatch
from worker.claims import BudgetTold
from worker.errors import DatabaseUnreachable
from worker.store import Store

CONFIGURED = 60
TIMEOUT_S = 7.0


@dataclass
class Written:
    """Stands in for the store and the log: keeps what it is told."""

    limits: list[tuple[str, int, float]] = field(default_factory=list)
    looked: list[Sequence[BudgetTold]] = field(default_factory=list)
    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)
    fault: Exception | None = None
    meanwhile: BudgetTold | None = None
    """What is heard while a limit is written down."""
    watch: BudgetWatch | None = None

    async def tell_limit(self, account: str, limit: int, *, timeout_s: float) -> None:
        if self.meanwhile and self.watch:
            self.watch.hear(self.meanwhile)
        if self.fault:
            raise self.fault
        self.limits.append((account, limit, timeout_s))

    async def hold_back(self, told: Sequence[BudgetTold]) -> dict[str, int]:
        self.looked.append(list(told))
        if self.fault:
            raise self.fault
        return self.held

    def warning(self, event: str, **fields: Any) -> None:
        self.said.append((event, fields))


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def watch(written: Written) -> BudgetWatch:
    accounts = {name: limits(CONFIGURED) for name in ("a", "b")}
    written.watch = BudgetWatch(cast(Store, written), accounts, timeout_s=TIMEOUT_S, log=written)
    return written.watch


@contextlib.asynccontextmanager
async def looking(watch: BudgetWatch) -> AsyncIterator[None]:
    """It looks meanwhile."""
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def told(account: str = "a", at: float = 1.0, *, limit: int | None = None, remaining: int | None = None) -> BudgetTold:
    return BudgetTold(account=account, limit=limit, remaining=remaining, started_at=at)


# -- the limit -------------------------------------------------------------------------------------------------------


async def test_a_limit_is_news_until_it_is_obeyed(watch: BudgetWatch, written: Written) -> None:
    """It is written down once, and said if it is not the configured one; the lower of the two is used."""
    for account, limit, used in (("b", 40, 40), ("a", 100, CONFIGURED)):
        watch.hear(told(account, limit=limit))
        assert watch.news == [account]
        await watch.obey_limit(account)
        assert written.limits.pop() == (account, limit, TIMEOUT_S)
        fields = {"account": account, "configured": CONFIGURED, "told": limit, "used": used}
        assert written.said.pop() == ("limit_differs", fields)
        watch.hear(told(account, limit=limit))
        assert watch.news == []


async def test_the_configured_limit_is_written_down_and_not_said(watch: BudgetWatch, written: Written) -> None:
    """Another may have been written down before our time."""
    watch.hear(told(limit=CONFIGURED))
    await watch.obey_limit("a")
    assert (written.limits, written.said) == ([("a", CONFIGURED, TIMEOUT_S)], [])


@pytest.mark.parametrize(("limit", "news"), [(1, ["a"]), (LIMIT_MAX, ["a"]), (0, []), (-1, []), (LIMIT_MAX + 1, [])])
def test_a_limit_that_cannot_be_is_a_mistake(watch: BudgetWatch, limit: int, news: list[str]) -> None:
    """What could be configured is news, and nothing else is."""
    watch.hear(told(limit=limit))
    assert watch.news == news


def test_news_are_by_account_and_in_order(watch: BudgetWatch) -> None:
    """In the same order in every process, since each locks the account's row."""
    watch.hear(told("b", at=2.0, limit=4))
    watch.hear(told("a", at=1.0, limit=5))
    assert watch.news == ["a", "b"]


async def test_a_limit_that_went_back_is_no_news(watch: BudgetWatch, written: Written) -> None:
    """An answer that says nothing of it takes nothing back."""
    watch.hear(told(limit=50))
    await watch.obey_limit("a")
    watch.hear(told(at=2.0, limit=40))
    watch.hear(told(at=3.0, remaining=1))
    assert watch.news == ["a"]
    watch.hear(told(at=4.0, limit=50))
    assert watch.news == []
    assert len(written.limits) == 1


async def test_a_limit_that_could_not_be_written_down_is_news_still(watch: BudgetWatch, written: Written) -> None:
    """Whoever asked hears of the fault, and nothing is said to be obeyed."""
    watch.hear(told(limit=50))
    written.fault = DatabaseUnreachable("database: gone")
    with pytest.raises(DatabaseUnreachable):
        await watch.obey_limit("a")
    assert (watch.news, written.said) == (["a"], [])


async def test_what_is_heard_while_a_limit_is_written_down_is_news(watch: BudgetWatch, written: Written) -> None:
    """It is the next one to obey."""
    watch.hear(told(limit=50))
    written.meanwhile = told(at=2.0, limit=40)
    await watch.obey_limit("a")
    assert watch.news == ["a"]
    written.meanwhile = told(at=3.0, limit=40)
    await watch.obey_limit("a")
    assert watch.news == []
    assert [limit for _, limit, _ in written.limits] == [50, 40]


async def test_a_limit_that_went_back_before_it_was_obeyed(watch: BudgetWatch, written: Written) -> None:
    """Whoever was about to obey it, and waited for the database meanwhile, finds nothing to do."""
    watch.hear(told(limit=50))
    await watch.obey_limit("a")
    watch.hear(told(at=2.0, limit=40))
    assert watch.news == ["a"]
    watch.hear(told(at=3.0, limit=50))
    await watch.obey_limit("a")
    assert [limit for _, limit, _ in written.limits] == [50]


@pytest.mark.parametrize("fault", [None, DatabaseUnreachable("database: gone")])
async def test_a_limit_that_went_back_while_it_was_written_down(
    watch: BudgetWatch, written: Written, fault: Exception | None
) -> None:
    """The database has the other one by then, or may have it: what was heard last is written down once more."""
    watch.hear(told(limit=50))
    await watch.obey_limit("a")
    watch.hear(told(at=2.0, limit=40))
    written.meanwhile, written.fault = told(at=3.0, limit=50), fault
    with pytest.raises(type(fault)) if fault else contextlib.nullcontext():
        await watch.obey_limit("a")
    assert watch.news == ["a"]
    written.fault = None
    await watch.obey_limit("a")
    assert written.limits[-1] == ("a", 50, TIMEOUT_S)
    assert watch.news == []


def test_the_request_that_began_last_counts(watch: BudgetWatch) -> None:
    """Whichever was answered last; what another account was told is no measure."""
    watch.hear(told("b", at=9.0, limit=CONFIGURED))
    watch.hear(told(at=2.0, limit=50))
    watch.hear(told(at=1.0, limit=40))
    assert watch._news["a"] == 50
    watch.hear(told(at=2.0, limit=30))  # at the same instant: the answer that came last
    assert watch._news["a"] == 30


# -- what remains ----------------------------------------------------------------------------------------------------


async def test_little_that_remains_is_looked_at(watch: BudgetWatch, written: Written) -> None:
    """The newest of each account, once, and what is held back is said."""
    written.held = {"a": 3}
    watch.hear(told(at=2.0, remaining=5))
    watch.hear(told(at=1.0, remaining=6))
    watch.hear(told("b", remaining=PLENTY - 1))
    async with looking(watch):
        await eventually(lambda: written.said, what="it is said")
    assert written.looked == [[told(at=2.0, remaining=5), told("b", remaining=PLENTY - 1)]]
    assert written.said == [("budget_shared", {"account": "a", "held_back": 3})]


async def test_what_holds_nobody_up_is_not_looked_at(
    watch: BudgetWatch, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plenty remains, or nothing was said of it, or the account has a new limit: its slots are taken for free until
    that is obeyed. Beside them others are looked at."""
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    async with looking(watch):
        for spared in (told(remaining=PLENTY), told(at=2.0), told(at=3.0, limit=40, remaining=1)):
            watch.hear(spared)
            await eventually(lambda: not watch._newest, what="it has looked", every_s=0.0)
            assert written.looked == []
        watch.hear(told(at=4.0, remaining=1))
        watch.hear(told("b", remaining=2))
        await eventually(lambda: written.looked, what="it has looked at the other")
        await watch.obey_limit("a")
        watch.hear(told(at=5.0, remaining=0))
        await eventually(lambda: len(written.looked) == 2, what="it looks at both")
    assert written.looked == [[told("b", remaining=2)], [told(at=5.0, remaining=0)]]


async def test_a_database_that_is_away_is_asked_after_the_next_answer(
    watch: BudgetWatch, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch lives on, and what it could not write down is forgotten."""
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    written.fault = DatabaseUnreachable("database: gone")
    async with looking(watch):
        watch.hear(told(remaining=5))
        await eventually(lambda: written.looked, what="it looks in vain")
        written.fault = None
        watch.hear(told("b", remaining=4))
        await eventually(lambda: len(written.looked) == 2, what="it looks again")
    assert written.looked[1] == [told("b", remaining=4)]


async def test_it_is_looked_at_now_and_then(
    watch: BudgetWatch, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many answers come in a moment, it is looked at once."""
    monkeypatch.setattr(module, "LOOK_S", 1000.0)
    async with looking(watch):
        for number in range(100):
            watch.hear(told(at=float(number), remaining=5))
            await asyncio.sleep(0)
    assert len(written.looked) == 1
