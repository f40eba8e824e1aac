"""All of it, side by side: nothing that is dark holds up the rest, and together it takes no longer than LIMIT_S of
`database` and ASK_S of `api`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from worker.check import api, config, files
from worker.check.database import LOOKS, look_into
from worker.check.finding import Finding, skipped
from worker.check.listen import listen
from worker.check.page import page
from worker.config import Settings
from worker.threads import DetachedThreads
from worker.token import TokenSource


async def check(
    load: Callable[[], Settings], *, flag: Path | None = None, dsn: str | None = None, asking: bool = False
) -> list[Finding]:
    """Every finding, in the order in which one thing needs another. `flag`, `dsn`: --config and --dsn, if they were
    given. `asking`: whether the API may be asked once for each account."""
    asyncio.get_running_loop().set_default_executor(DetachedThreads())
    settings, found = config.read(load, flag, dsn)
    if settings is None:
        return found + _all_skipped((*LOOKS, "token", "api", "accepted", "listen", "page"), "needs the config")
    sources, tokens = files.tokens(settings)
    (seen, answers), reached, listening = await asyncio.gather(
        _look_and_ask(settings, sources, asking=asking), api.reach(settings.api), listen(settings.http.listen)
    )
    return [*found, *seen, *tokens, reached, *answers, listening, page(settings.http, sources)]


async def _look_and_ask(
    settings: Settings, sources: Mapping[str, TokenSource], *, asking: bool
) -> tuple[list[Finding], list[Finding]]:
    """What the database shows, and what the API says: one after the other, since a request needs a slot."""
    seen = await look_into(settings, slots_for=sorted(sources) if asking else [])
    if asking:
        return seen.findings, await api.ask(settings, sources, seen.slots)
    return seen.findings, _all_skipped(("accepted",), "asked for with --token only: a request costs budget")


def _all_skipped(names: Collection[str], why: str) -> list[Finding]:
    return [skipped(name, why) for name in names]
