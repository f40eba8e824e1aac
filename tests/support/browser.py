"""Debian's Chromium, driven by Playwright, and what must be true of every page that it shows."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext, Page, Request, async_playwright, expect

from tests.support.waiting import eventually

CHROMIUM = "/usr/bin/chromium"
# On a busy machine a page takes its time.
LIMIT_MS = 20_000
DESKTOP = {"width": 1200, "height": 900}
PHONE = {"width": 390, "height": 844}

expect.set_options(timeout=LIMIT_MS)


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Chromium, without a window."""
    assert shutil.which(CHROMIUM), "Chromium is missing: apt-get install chromium"
    # As root, and in containers, its sandbox cannot be set up; what it is shown here is ours.
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as driver:
        running = await driver.chromium.launch(executable_path=CHROMIUM, args=args)
        try:
            yield running
        finally:
            await running.close()


@contextlib.asynccontextmanager
async def looking(
    address: str, *, size: dict[str, int] | None = None, running: Browser | None = None, **options: Any
) -> AsyncIterator[Page]:
    """A tab of a browser of its own. In the end: nothing that it asked for was on another host, no script failed, and
    nothing met the Content-Security-Policy."""
    async with contextlib.AsyncExitStack() as stack:
        chromium = running or await stack.enter_async_context(browser())
        context: BrowserContext = await chromium.new_context(
            base_url=f"http://{address}", viewport=size or DESKTOP, **options
        )
        context.set_default_timeout(LIMIT_MS)
        page = await context.new_page()
        asked: list[Request] = []
        said: list[str] = []
        context.on("request", lambda request: asked.append(request))  # noqa: PLW0108  marked by Playwright
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
        yield page
        await context.close()
        assert_asked_nobody_else(asked, address)
        # A page that is not there, or a service that is gone, is a test's business.
        assert not [text for text in said if "Failed to load resource" not in text and "net::ERR" not in text]


def assert_asked_nobody_else(asked: list[Request], address: str) -> None:
    """Every request went to our own address."""
    assert asked
    assert {urlsplit(request.url).netloc for request in asked} == {address}


async def sign_in(page: Page, token: str, name: str = "Ann") -> None:
    """By the link in the head of the page, by clicks."""
    await page.get_by_role("link", name="Sign in").first.click()
    await page.get_by_label("Your name").fill(name)
    await page.get_by_label("Token of this page").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()


async def tab_to(page: Page, name: str, *, most: int = 80) -> None:
    """Presses Tab until what is focused is called `name`, as a screen reader would read it."""
    for _ in range(most):
        await page.keyboard.press("Tab")
        if name in await focused(page):
            return
    raise AssertionError(f"Tab does not come to {name!r}; the last one was {await focused(page)!r}")


async def focused(page: Page) -> str:
    """What is focused, by its name."""
    name: str = await page.evaluate(
        "() => { const it = document.activeElement; return it === document.body ? '' :"
        " it.getAttribute('aria-label') || it.labels?.[0]?.textContent || it.textContent || ''; }"
    )
    return " ".join(name.split())


async def fits(page: Page) -> None:
    """Nothing hangs over the edge of the window."""
    too_wide = await page.evaluate(
        "() => document.documentElement.scrollWidth <= innerWidth ? [] :"
        " [...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > innerWidth)"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert not too_wide, f"{page.url[:200]}: {too_wide[:5]} hang over the edge"


async def pending(page: Page) -> int:
    """What the page says waits."""
    return int(await page.locator("#pending").get_attribute("data-value") or -1)


async def shows(page: Page, words: str) -> None:
    """Waits until the verdict says so."""
    await eventually(lambda: _says(page, words), what=f"the page says {words!r}")


async def _says(page: Page, words: str) -> bool:
    return words in await page.locator("#verdict").inner_text()


async def hide(page: Page, *, hidden: bool) -> None:
    """What the browser does when another tab comes before this one."""
    await page.evaluate(
        "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


async def goes_on(page: Page) -> None:
    """Waits until the stream has brought something: the end of the graphs' time is another."""
    end = page.locator("#graphs time").last
    before = await end.text_content(timeout=LIMIT_MS)
    await expect(end).not_to_have_text(before or "")
