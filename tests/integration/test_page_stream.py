"""How a page in a real browser stays fresh: its stream, and what it does without one."""

from __future__ import annotations

import asyncio
import json
import re
import signal

import pytest
from playwright.async_api import Route, expect

from tests.support.browser import goes_on, hide, looking, shows
from tests.support.database import Database
from tests.support.outages import clinic
from tests.support.statuspage import surgery
from tests.support.waiting import eventually
from tests.support.web import web

COUNT_STREAMS = """
    window.streams = [];
    window.EventSource = class extends EventSource {
        messages = 0;
        constructor(path) {
            super(path);
            streams.push(this);
            this.addEventListener("message", () => { this.messages += 1 });
        }
    };
"""


@pytest.mark.long
@pytest.mark.alone
async def test_a_stream_that_ends_now_and_then(database: Database) -> None:
    """As the service ends each one after ten minutes: the next one comes a second later, and nobody hears of a
    connection that was lost."""
    async with surgery(database) as one, looking(one.address) as page:
        ended = 0

        async def end(route: Route) -> None:
            nonlocal ended
            ended += 1
            sections = json.dumps({"title": f"stream {ended}", "sections": {}})
            await route.fulfill(content_type="text/event-stream", body=f"retry: 1000\n\ndata: {sections}\n\n")

        await page.route("**/live", end)
        await page.goto("/")
        await page.evaluate("""() => {
            const lost = document.getElementById("lost");
            new MutationObserver(() => { window.wasLost ||= !lost.hidden }).observe(lost, { attributes: true });
        }""")
        await expect(page).to_have_title(re.compile(r"stream ([4-9]|\d\d+)"))
        assert not await page.evaluate("window.wasLost")


@pytest.mark.long
async def test_a_service_that_is_gone(database: Database) -> None:
    """The page says that it knows nothing new, and since when; when the service is back, it goes on by itself."""
    async with clinic(database) as one, web(one.env) as first, looking(first.address) as page:
        await page.goto("/")
        await shows(page, "All changes have reached Caspen")
        await one.stopped(first.service)
        await expect(page.get_by_role("alert")).to_contain_text("No connection to caspen-sync since")
        async with web(one.env, "--listen", first.address) as again:
            await expect(page.get_by_role("alert")).to_be_hidden()
            await shows(page, "All changes have reached Caspen")
            await one.stopped(again.service)


@pytest.mark.long
async def test_a_tab_that_nobody_looks_at(database: Database) -> None:
    """It closes its stream, and is up to date again as soon as somebody looks."""
    async with surgery(database) as one, looking(one.address) as page:
        opened: list[str] = []
        closed: list[str] = []
        page.on("request", lambda request: opened.append(request.url))
        page.on("requestfinished", lambda request: closed.append(request.url))
        page.on("requestfailed", lambda request: closed.append(request.url))
        await page.goto("/")
        await page.locator("#verdict").wait_for()
        await hide(page, hidden=True)
        await eventually(lambda: f"{one.origin}/live" in closed, what="the stream is closed")
        await one.clinic.write(3)
        await one.clinic.all_synced()
        assert opened.count(f"{one.origin}/live") == 1
        await hide(page, hidden=False)
        await expect(page.get_by_text("3 accepted")).to_be_visible()


@pytest.mark.long
async def test_a_connection_that_dies_without_a_word(database: Database) -> None:
    """A service that is frozen closes nothing, as a network that is gone does not: the page says so all the same, and
    since when, and goes on by itself."""
    async with surgery(database) as one, looking(one.address) as page:
        await page.goto("/")
        await goes_on(page)
        one.web.service.process.send_signal(signal.SIGSTOP)
        try:
            await expect(page.get_by_role("alert")).to_contain_text("No connection to caspen-sync since")
        finally:
            one.web.service.process.send_signal(signal.SIGCONT)
        await expect(page.get_by_role("alert")).to_be_hidden()
        await goes_on(page)


@pytest.mark.long
async def test_who_is_turned_away_from_the_stream(database: Database) -> None:
    """As the 33rd viewer is: the page looks again by itself, its title and what is read out with it."""
    async with surgery(database) as one, looking(one.address) as page:
        await page.route("**/live", lambda route: route.fulfill(status=503))
        await page.goto("/")
        await shows(page, "All changes have reached Caspen")
        await database.pool.execute(
            "UPDATE caspen_sync.account SET pause_kind = 'manual', paused_until = 'infinity', paused_at = now()"
        )
        await expect(page).to_have_title("✕ Nothing waits, but new changes would not reach Caspen")
        await shows(page, "Nothing waits, but new changes would not reach Caspen")
        await expect(page.locator("#said")).to_have_text("Nothing waits, but new changes would not reach Caspen")


@pytest.mark.long
async def test_a_tab_holds_one_stream(database: Database) -> None:
    """Also when somebody comes back to it while it looks again, having been turned away."""
    async with surgery(database) as one, looking(one.address) as page:
        turned_away, back, looks_again = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def first_not(route: Route) -> None:
            if turned_away.is_set():
                await route.continue_()
            else:
                turned_away.set()
                await route.fulfill(status=503)

        async def slowly(route: Route) -> None:
            if turned_away.is_set() and not back.is_set():
                looks_again.set()
                await back.wait()
            await route.continue_()

        await page.add_init_script(COUNT_STREAMS)
        await page.route("**/live", first_not)
        await page.route(f"{one.origin}/", slowly)
        await page.goto("/")
        await asyncio.wait_for(looks_again.wait(), 20)
        await hide(page, hidden=True)
        await hide(page, hidden=False)
        await eventually(lambda: page.evaluate("streams.length === 2"), what="it listens again")
        back.set()
        # It would come back after three seconds, and has a message a second.
        later = "streams[1].messages >= 6 || streams.length > 2"
        await eventually(lambda: page.evaluate(later), what="it was heard of for six seconds")
        assert await page.evaluate("streams.filter((one) => one.readyState !== EventSource.CLOSED).length") == 1
