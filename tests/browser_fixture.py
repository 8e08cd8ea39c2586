"""Fixtures for tests in a real Chromium, driven by Playwright, that never leaves this machine.

The browser is Debian's (`apt-get install chromium`); where it is missing these tests fail and say so: a page
that no browser opened is not tested.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, Request, Route, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
SERIOUS = ("serious", "critical")


def chromium() -> Path:
    """The browser's program."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("No Chromium here: `apt-get install chromium` (`make test` does it where it may).")
    return Path(found)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A Chromium that resolves no name."""
    async with async_playwright() as playwright:
        # Chromium refuses its own sandbox to root, which is who runs tests in a container.
        browser = await playwright.chromium.launch(
            executable_path=chromium(), args=QUIET, chromium_sandbox=os.geteuid() != 0
        )
        try:
            yield browser
        finally:
            await browser.close()


class Watched:
    """A page, and everything that it should never do: console errors, refused resources, dialogs, foreign requests."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        self.requests: list[Request] = []
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._on_dialog)
        page.on("request", lambda request: self.requests.append(request))

    async def _on_dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        await dialog.dismiss()


async def watched_page(browser: Browser, **options: Any) -> Watched:
    """A page in a context of its own."""
    context = await browser.new_context(**options)
    context.set_default_timeout(15_000)
    return Watched(await context.new_page())


async def show_html(page: Page, url: str, html: str, policy: str) -> None:
    """Open `html` at `url` as if that server had sent it with this Content-Security-Policy."""

    async def answer(route: Route) -> None:
        await route.fulfill(
            body=html, content_type="text/html; charset=utf-8", headers={"content-security-policy": policy}
        )

    await page.route(url, answer)
    await page.goto(url)


@asynccontextmanager
async def a_site(html: Callable[[], str], policy: str) -> AsyncIterator[str]:
    """The address of another web server, which answers everything with `html`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-security-policy: {policy}\r\nconnection: close"
        writer.write(f"{head}\r\n\r\n{html()}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def accessibility_troubles(page: Page) -> list[str]:
    """What axe-core finds that keeps somebody from using the page, one line each."""
    found = await Axe().run(page)
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary'][:300]}"
        for one in found.response["violations"]
        if one["impact"] in SERIOUS
    ]
