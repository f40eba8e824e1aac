"""The status page as people use it: in a real browser, by clicks, by keyboard alone, and without JavaScript."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Route, expect

from tests.support.browser import PHONE, fits, focused, goes_on, looking, pending, shows, sign_in, tab_to
from tests.support.database import Database
from tests.support.processes import TOKEN
from tests.support.statuspage import PAGE_TOKEN, WITH_TOKEN, Surgery, surgery
from tests.support.waiting import eventually
from worker.sandbox import NO_SUCH_ROOM, resource

ROOM = {"room_id": NO_SUCH_ROOM}


@contextlib.asynccontextmanager
async def with_a_parked_change(database: Database) -> AsyncIterator[Surgery]:
    """A service with a page token, and a change that the API rejects: there is no such room."""
    async with surgery(database, **WITH_TOKEN) as one:
        await database.write("app_bad", ROOM)
        await eventually(lambda: is_in(database, "parked"), what="the change is parked")
        yield one


async def is_in(database: Database, state: str) -> bool:
    """Whether the change of app_bad is in this state."""
    sql = "SELECT state FROM caspen_sync.outbox WHERE appointment_id = 'app_bad' ORDER BY id LIMIT 1"
    return bool(await database.value(sql) == state)


@pytest.mark.long
@pytest.mark.alone
async def test_the_backlog_falls_live(database: Database) -> None:
    """Without a reload: the number goes down step by step while the worker drains, the verdict turns and is said to who
    cannot see it, and what was focused stays so."""
    async with (
        surgery(database, latency_s=0.3, ACCOUNTS__DEFAULT__CONCURRENCY="2") as one,
        looking(one.address) as page,
    ):
        await page.goto("/")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("All changes have reached Caspen")
        await page.evaluate("window.here = true")
        await page.get_by_role("link", name="default").focus()
        await one.clinic.write(50)
        seen: list[int] = []

        async def drained() -> bool:
            now = await pending(page)
            if not seen or now != seen[-1]:
                seen.append(now)
            return bool(max(seen)) and now == 0

        await eventually(drained, limit_s=40, what="the page says that nothing waits")
        falling = seen[seen.index(max(seen)) :]
        assert len(falling) >= 3
        assert falling == sorted(falling, reverse=True)
        await shows(page, "All changes have reached Caspen")
        await expect(page).to_have_title("✓ All changes have reached Caspen")
        await expect(page.locator("#said")).to_have_text("All changes have reached Caspen")
        assert await page.evaluate("window.here")
        assert await focused(page) == "default"
        await expect(page.get_by_role("img", name="Changes that wait")).to_be_visible()
        await fits(page)


@pytest.mark.long
async def test_a_parked_change_by_clicks(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found from the overview, read, sent again and seen to be synced. A wrong token of the page is told at once."""
    async with with_a_parked_change(database) as one, looking(one.address) as page:
        await page.goto("/")
        await shows(page, "1 change is parked")
        await page.get_by_role("link", name="Look at them").click()
        await page.get_by_role("link", name="Sign in").first.click()
        await page.get_by_label("Your name").fill("Ann")
        await page.get_by_label("Token of this page").fill("not the token at all")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert").filter(has_text="That is not the token")).to_be_visible()
        assert await page.get_by_label("Your name").input_value() == "Ann"
        await page.get_by_label("Token of this page").fill(PAGE_TOKEN)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page).to_have_url(f"{one.origin}/parked")

        await page.get_by_role("row").filter(has_text="app_bad").get_by_role("link").first.click()
        await expect(page.locator("#body")).to_contain_text(f'"room_id": {NO_SUCH_ROOM}')
        await expect(page.locator("#messages")).to_contain_text("room_id")
        monkeypatch.setattr(resource, "NO_SUCH_ROOM", 0)
        await page.get_by_role("button", name="Send it again").click()
        await expect(page.locator("#state")).to_have_attribute("data-state", "synced")
        await expect(page.get_by_text("sent again by Ann (page)")).to_be_visible()
        assert await is_in(database, "synced")


@pytest.mark.long
async def test_a_parked_change_by_keyboard(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by Tab, Enter, Space and typing alone; and to discard it needs a second step and takes a reason."""
    async with with_a_parked_change(database) as one, looking(one.address) as page:
        await page.goto("/")
        await shows(page, "1 change is parked")
        press = page.keyboard.press
        await tab_to(page, "To the content")
        await tab_to(page, "Sign in")
        await press("Enter")
        await page.wait_for_url("**/sign-in**")
        await tab_to(page, "Your name")
        await page.keyboard.type("Ann")
        await press("Tab")
        await page.keyboard.type(PAGE_TOKEN)
        await press("Enter")
        await page.wait_for_url(f"{one.origin}/")
        await shows(page, "1 change is parked")
        await tab_to(page, "Look at them")
        await press("Enter")
        await page.wait_for_url("**/parked")
        await tab_to(page, "Choose change")
        await press("Space")
        await tab_to(page, "Discard the chosen ones")
        await press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Discard 1 change?")
        await tab_to(page, "Leave them as they are")
        await press("Enter")
        await page.wait_for_url("**/parked")
        assert await is_in(database, "parked")
        monkeypatch.setattr(resource, "NO_SUCH_ROOM", 0)
        await tab_to(page, "Choose change")
        await press("Space")
        await tab_to(page, "Send the chosen ones again")
        await press("Enter")
        await expect(page.get_by_role("status").filter(has_text="1 change waits to be sent again")).to_be_visible()
        await eventually(lambda: is_in(database, "synced"), what="the change is synced")
        await tab_to(page, "Overview")
        await press("Enter")
        await shows(page, "All changes have reached Caspen")


@pytest.mark.long
async def test_without_javascript(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything works but what stays fresh by itself: a reload shows the new figures, and a change is found, read,
    discarded with a reason, and another one sent again."""
    async with with_a_parked_change(database) as one, looking(one.address, java_script_enabled=False) as page:
        await page.goto("/")

        async def counted() -> bool:
            await page.reload()
            count = page.locator("#parked-count")
            return await count.count() == 1 and await count.inner_text() == "1"

        await eventually(counted, what="a reload shows what is parked")
        await sign_in(page, PAGE_TOKEN)
        await page.get_by_role("link", name="Parked changes").click()
        await page.get_by_role("checkbox").check()
        await page.get_by_role("button", name="Discard the chosen ones").click()
        await page.get_by_label("Reason").fill("the room is gone")
        await page.get_by_role("button", name="Discard 1 change").click()
        await expect(page.get_by_text("1 change was discarded.")).to_be_visible()
        assert await is_in(database, "discarded")
        why = "SELECT who || ': ' || reason FROM caspen_sync.intervention"
        assert await database.value(why) == "Ann (page): the room is gone"

        await database.write("app_worse", ROOM)
        await eventually(lambda: parked(database), what="the second one is parked")
        await page.get_by_label("Appointment").fill("app_worse")
        await page.get_by_role("button", name="Find").click()
        await page.get_by_role("link", name=re.compile("^Change [0-9]")).click()
        monkeypatch.setattr(resource, "NO_SUCH_ROOM", 0)
        await page.get_by_role("button", name="Send it again").click()
        await page.wait_for_url("**did=retry**")

        async def told() -> bool:
            await page.reload()
            return await page.locator("#state").get_attribute("data-state") == "synced"

        await eventually(told, what="a reload shows that it is synced")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("link", name="Sign in").first).to_be_visible()


async def parked(database: Database) -> bool:
    """Whether anything is."""
    return bool(await database.value("SELECT count(*) FROM caspen_sync.outbox WHERE state = 'parked'"))


@pytest.mark.long
@pytest.mark.alone
async def test_a_refused_token_shows_within_a_second(database: Database) -> None:
    """From the moment in which the pause is committed: as such, with the next try, and what to do. And it goes by
    itself when the token is good again."""
    async with surgery(database, RETRY__PROBE_BASE_S="5", RETRY__PROBE_MAX_S="5") as one, looking(one.address) as page:
        await page.goto("/")
        await goes_on(page)
        await page.evaluate("""() => {
            const shown = () => document.getElementById("verdict").textContent.includes("refuses the access token");
            new MutationObserver(() => { if (shown() && !window.shownAt) window.shownAt = Date.now() })
                .observe(document.getElementById("main"), { subtree: true, childList: true, characterData: true });
        }""")
        one.clinic.sandbox.set_tokens([])
        await one.clinic.write(1)
        await shows(page, "Caspen refuses the access token")
        paused = "SELECT extract(epoch FROM paused_at) * 1000 FROM caspen_sync.account"
        late_ms = await page.evaluate("window.shownAt") - float(await database.value(paused))
        print(f"the pause showed after {late_ms:.0f} ms")
        assert 0 < late_ms < 1000
        await shows(page, "1 change has not reached Caspen")
        await shows(page, "next try in")
        await shows(page, "Put a valid token into its file")
        one.clinic.sandbox.set_tokens([one.clinic.env["CASPEN_SYNC_ACCOUNTS__DEFAULT__TOKEN"]])
        await shows(page, "All changes have reached Caspen")


@pytest.mark.long
async def test_an_account_is_stopped_and_goes_on(database: Database) -> None:
    """On a phone, by who has signed in: with a reason, which the overview tells, and the change goes out afterwards."""
    async with surgery(database, **WITH_TOKEN) as one, looking(one.address, size=PHONE, has_touch=True) as page:
        await page.goto("/")
        await sign_in(page, PAGE_TOKEN)
        await page.get_by_role("link", name="default").tap()
        await page.get_by_label("Reason").fill("Caspen moves house")
        await page.get_by_role("button", name="Stop the sending").tap()
        await expect(page.get_by_text("A person has stopped the sending")).to_be_visible()
        await fits(page)
        await one.clinic.write(1)
        await page.get_by_role("link", name="Overview").tap()
        await shows(page, "1 change has not reached Caspen")
        await shows(page, "Caspen moves house")
        await fits(page)
        await page.get_by_role("link", name="Look at the account").tap()
        await page.get_by_role("button", name="Let it go on now").tap()
        await one.clinic.all_synced()
        await page.get_by_role("link", name="Overview").tap()
        await shows(page, "All changes have reached Caspen")


@pytest.mark.long
async def test_a_page_whose_service_cannot_say(database: Database) -> None:
    """A page that looks again shows what is wrong instead of what was right, and goes on looking."""
    async with surgery(database) as one, looking(one.address) as page:
        await one.web.turns("/account?name=default", 200, "Changes are sent as they come")
        await page.goto("/account?name=default")

        async def cannot(route: Route) -> None:
            body = '<!DOCTYPE html><main id="main" tabindex="-1"><h1>Service Unavailable</h1></main>'
            await route.fulfill(status=503, content_type="text/html", body=body)

        await page.route("**/account**", cannot)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Service Unavailable")
        await page.unroute("**/account**")
        await expect(page.get_by_text("Changes are sent as they come")).to_be_visible()


@pytest.mark.long
async def test_what_is_focused_stays_what_it_is(database: Database) -> None:
    """When accounts change places, and when a pause ends under a finger: nothing else comes to where the focus is."""
    async with (
        surgery(database, ACCOUNTS__NORTH__TOKEN="north-token", **WITH_TOKEN) as one,
        looking(one.address) as page,
    ):
        await one.web.turns("/accounts", 200, "/account?name=north")
        await page.goto("/")
        await sign_in(page, PAGE_TOKEN)
        await page.get_by_role("link", name="default", exact=True).focus()
        await database.write("app_1", {"note": "x"}, account="north")
        await shows(page, "1 change has not reached Caspen")
        await expect(page.locator("#accounts tbody tr").first).to_contain_text("north")
        assert await focused(page) == "default"

        await page.goto("/account?name=north")
        await page.get_by_role("button", name="Let it go on now").focus()
        await page.evaluate("window.here = true")
        one.clinic.sandbox.set_tokens([TOKEN, "north-token"])
        await expect(page.get_by_role("button", name="Stop the sending")).to_be_visible()
        assert await page.evaluate("window.here")
        assert "Stop the sending" not in await focused(page)


@pytest.mark.long
async def test_more_who_look_than_there_are_streams(database: Database) -> None:
    """Who is turned away sees fresh figures all the same, and hears of no lost connection."""
    async with surgery(database) as one, looking(one.address) as page:

        async def turned_away(route: Route) -> None:
            await route.fulfill(status=503, content_type="text/plain", body="too many look at once")

        await page.route("**/live", turned_away)
        await page.goto("/")
        await one.clinic.write(3)
        await expect(page.get_by_text("3 accepted")).to_be_visible()
        await expect(page.locator("#lost")).to_be_hidden()
