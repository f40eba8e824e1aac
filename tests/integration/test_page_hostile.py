"""What other people wrote, on the status page: scripts, and texts without end, do nothing and break nothing. And
everybody can use the pages: axe-core finds no violation."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.support.browser import DESKTOP, PHONE, browser, fits, hide, looking, sign_in
from tests.support.database import Database
from tests.support.parking import parked
from tests.support.statuspage import PAGE_TOKEN, WITH_TOKEN, Surgery, surgery

SCRIPT = (
    "</pre></bdi></title><script>window.hacked=1</script><img src=x onerror='window.hacked=2'>"
    "\"' onfocus=window.hacked=3 autofocus x='{{ 7*7 }}<svg onload=window.hacked=4>"
)
ENDLESS = "W" * 10_000
TURNED = "\u202egnp.exe\u2066\u0007\u001b[31m"


@contextlib.asynccontextmanager
async def hostile(database: Database) -> AsyncIterator[tuple[Surgery, list[str]]]:
    """A service, and the paths of all pages that show what others wrote. Everything that may hold any text does."""
    bad = f"{SCRIPT}{TURNED}{ENDLESS}"
    account, appointment = f"acc {SCRIPT}"[:200], f"app_{SCRIPT}{TURNED}"
    async with surgery(database, **WITH_TOKEN) as one:
        ids = [
            await parked(database, appointment, {"note": f"note {bad}"}, account=account, error=bad),
            await parked(database, "app_endless", {"note": f"note {bad}", ENDLESS: 1}, account=account, error=ENDLESS),
        ]
        run = database.pool.execute
        messages = json.dumps({"message": bad.replace("\x00", ""), "errors": {bad: [bad]}})
        for number in ids:
            await run("INSERT INTO caspen_sync.rejection VALUES ($1, $2, now(), $3)", account, number, messages)
        await run("UPDATE caspen_sync.outbox SET source = $1", bad)
        await run(
            """
            INSERT INTO caspen_sync.attempt (account, appointment_id, change_ids, started_at, duration_ms, http_status,
                outcome, error, worker)
            SELECT $1, $2, $3, now(), 1, 422, outcome, $4, $4 FROM unnest(ARRAY['rejected', $5]) AS outcome
            """,
            *(account, appointment, [ids[0], *range(10**17, 10**17 + 5000)], bad, bad[:500]),
        )
        await run(
            "UPDATE caspen_sync.account SET pause_kind = 'manual', pause_reason = $1, paused_until = 'infinity', "
            "paused_at = now() WHERE account = $2",
            bad,
            account,
        )
        worker = "INSERT INTO caspen_sync.worker VALUES ($1, $2, $2, now(), now() + interval '1 hour')"
        await run(worker, account, bad[:2000])
        await run(
            "INSERT INTO caspen_sync.intervention (account, change_id, action, who, reason) "
            "VALUES ($1, $2, 'retry', $3, $3)",
            account,
            ids[0],
            bad,
        )
        await database.write("app_1", {"note": f"note {bad}"}, account=f"stranger {SCRIPT}{ENDLESS}"[:1000])
        of = f"account={quote(account)}"
        yield (
            one,
            [
                "/",
                "/accounts",
                f"/account?name={quote(account)}",
                f"/parked?{of}",
                *(f"/change?{of}&id={number}" for number in ids),
                f"/appointment?id={quote(appointment)}",
                f"/appointment?id={quote(SCRIPT)}",
                f"/sign-in?next={quote(SCRIPT)}",
                f"/change?{of}&id=999",
            ],
        )


@pytest.mark.long
async def test_other_peoples_texts_do_nothing(database: Database) -> None:
    """No script of theirs runs, nothing is asked of anybody, no text turns another one around, and nothing hangs over
    the edge of the window, at a desk and on a phone."""
    async with hostile(database) as (one, paths), browser() as running:
        for size in (DESKTOP, PHONE):
            async with looking(one.address, size=size, running=running) as page:
                await page.goto("/")
                await sign_in(page, PAGE_TOKEN, name=SCRIPT)
                for path in paths:
                    await page.goto(path)
                    await untouched(page)
                await page.goto(paths[4])
                assert "window.hacked" in await page.locator("#body").inner_text()
                assert ENDLESS in await page.locator("#messages").inner_text()
                # The stream brings the same texts by another way: all of them when somebody begins to look.
                await page.goto("/")
                await hide(page, hidden=True)
                await page.evaluate(
                    "for (const part of document.querySelectorAll('main > section')) part.replaceChildren()"
                )
                await hide(page, hidden=False)
                await expect(page.locator("#verdict")).to_contain_text("window.hacked")
                await expect(page.locator("#workers")).to_contain_text("window.hacked")
                await untouched(page)


async def untouched(page: Page) -> None:
    """Nothing of theirs has run, or is part of the document."""
    assert await page.evaluate("window.hacked") is None
    assert await page.locator("main script, main img, [onfocus], [onload], [onerror]").count() == 0
    text = await page.locator("body").inner_text()
    assert not set(text) & {"\u202e", "\u2066", "\x07", "\x1b"}
    await fits(page)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_everybody_can_use_it(database: Database) -> None:
    """axe-core finds no violation on any page: light and dark, at a desk and on a phone, signed in and not."""
    axe = Axe()
    async with hostile(database) as (one, paths), browser() as running:
        for scheme in ("light", "dark"):
            for size in (DESKTOP, PHONE):
                async with looking(one.address, size=size, running=running, color_scheme=scheme) as page:
                    for path in paths:
                        await page.goto(path)
                        await accessible(axe, page)
                    await page.goto("/")
                    await sign_in(page, PAGE_TOKEN)
                    for path in paths:
                        await page.goto(path)
                        await accessible(axe, page)
                    await page.goto(paths[3])
                    await page.get_by_role("button", name="Discard all of them").click()
                    await accessible(axe, page)


async def accessible(axe: Axe, page: Page) -> None:
    """axe-core has nothing to say."""
    found = await axe.run(page)
    assert found.violations_count == 0, f"{page.url[:200]}\n{found.generate_report()}"
